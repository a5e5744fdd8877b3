package standalone

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
)

// RequestCA returns a certificate request, in PEM, for the CA that issues: with
// its name and key, so that what it has issued can be verified by what comes
// back too; or fresh, with a new key and a new name. A new key is durable before
// its request is returned, and is of no use before ImportCA.
func (w *World) RequestCA(ctx context.Context, fresh bool) ([]byte, error) {
	w.turning.Lock()
	defer w.turning.Unlock()
	t := w.ca.trust.Load()
	name, key := t.issuing.certificate.RawSubject, t.issuing.key.key
	if fresh {
		text, err := w.newName(ctx)
		if err != nil {
			return nil, err
		}
		if name, err = asn1.Marshal(pkix.Name{CommonName: text}.ToRDNSequence()); err != nil {
			return nil, err
		}
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		if err := w.ca.keepKey(own); err != nil {
			return nil, err
		}
		key = own
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{RawSubject: name, ExtraExtensions: wantedOfCA()}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// wantedOfCA is what a request for an issuing CA asks for: CA:TRUE with
// pathlen:0, and to sign certificates and CRLs (RFC 5280, 4.2.1.9 and 4.2.1.3).
func wantedOfCA() []pkix.Extension {
	return []pkix.Extension{
		{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, 0x00}},
		{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{0x03, 0x02, 0x01, 0x06}},
	}
}

// ImportCA lets the CA at the head of a chain in PEM take over: its certificate
// first, then each one's issuer, the root last. Its key must be here. It refuses
// whatever would leave devices with certificates that do not work, and then
// changes nothing; what it has checked it has also tried, by a certificate that
// nobody gets. Like RotateCA it leaves the one CA or the other, whenever it is
// killed, and the CA before it trusted.
func (w *World) ImportCA(ctx context.Context, text []byte) (CAEntry, error) {
	ctx = context.WithoutCancel(ctx)
	w.turning.Lock()
	defer w.turning.Unlock()
	chain, err := readImport(text)
	if err != nil {
		return CAEntry{}, err
	}
	if err := w.checkImport(ctx, chain); err != nil {
		return CAEntry{}, err
	}
	var ders [][]byte
	for _, c := range chain {
		ders = append(ders, c.Raw)
	}
	return w.takeOver(ctx, ders)
}

// maxAbove is how many CAs may stand above the one that is imported.
const maxAbove = 8

func readImport(text []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock {
			return nil, refused("a PEM block of type %.40q where a certificate should be: give the chain alone, the issuing CA's certificate first, the root last", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, refused("certificate %d of the chain cannot be read: %v", len(chain)+1, err)
		}
		chain = append(chain, c)
	}
	switch {
	case len(chain) == 0:
		return nil, refused("no certificate in PEM: give the issuing CA's certificate, then each one's issuer, the root last")
	case len(chain) > 1+maxAbove:
		return nil, refused("%d certificates: at most %d may stand above the issuing CA", len(chain), maxAbove)
	}
	return chain, nil
}

// checkImport is a list of what could be wrong, each with what to do.
func (w *World) checkImport(ctx context.Context, chain []*x509.Certificate) error {
	own, now := chain[0], w.config.Now()
	key, err := w.ca.keyHere(own)
	if err != nil {
		return err
	}
	switch {
	case !own.BasicConstraintsValid || !own.IsCA:
		return refused("%q is no CA certificate: have the request signed with basicConstraints=CA:TRUE,pathlen:0", own.Subject)
	case own.KeyUsage&x509.KeyUsageCertSign == 0 || own.KeyUsage&x509.KeyUsageCRLSign == 0:
		return refused("%q may not sign certificates and CRLs: have it signed with keyUsage=keyCertSign,cRLSign", own.Subject)
	case len(own.SubjectKeyId) == 0:
		return refused("%q has no subject key identifier: have it signed with subjectKeyIdentifier=hash", own.Subject)
	}
	for i, c := range chain {
		switch {
		case !now.Before(c.NotAfter):
			return refused("%q has expired on %s: have it made anew", c.Subject, c.NotAfter.UTC().Format(time.DateOnly))
		case now.Before(c.NotBefore):
			return refused("%q is not valid before %s: look at the clock of this machine, or import it then", c.Subject, c.NotBefore.UTC().Format(time.RFC3339))
		case i+1 < len(chain):
			if err := c.CheckSignatureFrom(chain[i+1]); err != nil {
				return refused("%q did not sign %q: put each one's issuer behind it (%v)", chain[i+1].Subject, c.Subject, err)
			}
		case len(chain) == 1 || !bytes.Equal(c.RawIssuer, c.RawSubject) || c.CheckSignatureFrom(c) != nil:
			return refused("the chain ends at %q, which is no root: put its issuer %q behind it, and so on up to the root", c.Subject, c.Issuer)
		}
	}
	if err := w.checkName(ctx, own); err != nil {
		return err
	}
	return w.tryImport(ctx, chain, key)
}

// checkName refuses a name that another issuing CA has, with another key: what
// they issued could not be told apart.
func (w *World) checkName(ctx context.Context, own *x509.Certificate) error {
	if len(own.Subject.Names) == 0 {
		return refused("the issuing CA has no name: have it signed with the name of its request")
	}
	all, err := w.store.Authorities().List(ctx)
	if err != nil {
		return err
	}
	for _, a := range all {
		chain, err := parseChain(a.Chain)
		if err != nil {
			return err
		}
		if a.Subject == own.Subject.String() && !issuing.SameKey(chain[0].PublicKey, own.PublicKey) {
			return refused("CA %.12s has the name %q too, with another key: have it signed with a name of its own, as `certvendor ca csr --new` gives it", a.ID, a.Subject)
		}
	}
	return nil
}

// keyHere finds the key of a CA among those that are kept.
func (ca *CA) keyHere(c *x509.Certificate) (keyFile, error) {
	key, err := ca.keyOf(c, &notes{})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return key, refused("the key of %q is not here: have a request signed that `certvendor ca csr`, or `certvendor ca csr --new`, has made", c.Subject)
	case err != nil:
		return key, fmt.Errorf("the key of %q: %w", c.Subject, err)
	case !issuing.SameKey(key.key.Public(), c.PublicKey):
		return key, refused("%s is not the key of %q", key.path, c.Subject)
	}
	return key, nil
}

// tryImport signs a certificate that nobody gets, and looks whether it can be
// verified by the root: path lengths, name constraints and key usages of all
// that stand above are in that.
func (w *World) tryImport(ctx context.Context, chain []*x509.Certificate, key keyFile) error {
	try, err := issuing.New(issuing.Config{Chain: chain, Signer: key.key, Now: w.config.Now})
	if err != nil {
		return refused("%s", strings.TrimPrefix(err.Error(), "issuing: "))
	}
	device, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	now := w.config.Now()
	subject, err := asn1.Marshal(pkix.Name{CommonName: "device"}.ToRDNSequence())
	if err != nil {
		return err
	}
	made, err := try.Issue(ctx, certificate.Order{
		Device: "device", Key: device.Public(), RawSubject: subject, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
	})
	if err != nil {
		return refused("it cannot issue: %v", err)
	}
	leaf, err := made.X509()
	if err != nil {
		return err
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	for _, c := range chain[:len(chain)-1] {
		between.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return refused("what it issues for devices cannot be verified by the root %q: have it signed with pathlen:0 below a CA that allows one below it, for clientAuth, without name constraints (%v)",
			chain[len(chain)-1].Subject, err)
	}
	return nil
}
