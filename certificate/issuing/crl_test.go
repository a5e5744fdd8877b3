package issuing

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// crlAuthority returns an authority whose CA may sign CRLs, and that CA.
func crlAuthority(t *testing.T, key crypto.Signer) (*Authority, *x509.Certificate) {
	t.Helper()
	template := caTemplate(t, "issuing", key)
	template.KeyUsage |= x509.KeyUsageCRLSign
	ca := sign(t, template, template, key.Public(), key)
	a, err := New(Config{Chain: []*x509.Certificate{ca}, Signer: key, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return a, ca
}

func TestRevocationList(t *testing.T) {
	key := keys()["p256"]
	a, ca := crlAuthority(t, key)
	c, _ := issue(t, a, order(key))
	if !a.Issued(c) {
		t.Error("it has not issued its own certificate")
	}
	if other, _ := crlAuthority(t, keys()["p384"]); other.Issued(c) {
		t.Error("another CA of the same name has issued it")
	}
	list := List{Number: 7, Until: now.Add(time.Hour), Entries: []certificate.RevokedCertificate{
		{Certificate: c, At: now.Add(-time.Minute), Reason: 1},
	}}
	der, err := a.RevocationList(list)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := crl.CheckSignatureFrom(ca); err != nil {
		t.Error(err)
	}
	if crl.Number.Int64() != 7 || !crl.ThisUpdate.Equal(now) || !crl.NextUpdate.Equal(now.Add(time.Hour)) {
		t.Errorf("number %d, from %s to %s", crl.Number, crl.ThisUpdate, crl.NextUpdate)
	}
	parsed := must(c.X509())
	entry := crl.RevokedCertificateEntries[0]
	if len(crl.RevokedCertificateEntries) != 1 || entry.SerialNumber.Cmp(parsed.SerialNumber) != 0 ||
		entry.ReasonCode != 1 || !entry.RevocationTime.Equal(now.Add(-time.Minute)) {
		t.Errorf("entries %+v", crl.RevokedCertificateEntries)
	}
	opensslTakes(t, ca, der)
	if _, err := a.RevocationList(List{Number: 8, Until: now}); err == nil {
		t.Error("a list was signed that is out of date already")
	}
	a.signer = failing{key, func() ([]byte, error) { return nil, errors.New("no route to the KMS") }}
	if _, err := a.RevocationList(list); !errors.Is(err, certificate.ErrNoCAKey) {
		t.Errorf("without its key: %v", err)
	}
}

// opensslTakes has openssl, which others use, verify the list.
func opensslTakes(t *testing.T, ca *x509.Certificate, der []byte) {
	t.Helper()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Log("openssl is not installed: not tried")
		return
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{
		"ca.pem": {Type: "CERTIFICATE", Bytes: ca.Raw}, "crl.pem": {Type: "X509 CRL", Bytes: der},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := exec.CommandContext(t.Context(), openssl, "crl", "-in", "crl.pem", "-CAfile", "ca.pem", "-noout", "-verify")
	run.Dir = dir
	if out, err := run.CombinedOutput(); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
}
