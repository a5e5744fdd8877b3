package aws

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// PrivateCA issues certificates in ACM Private CA; an *acmpca.Client of the
// CA's region and account is one.
type PrivateCA interface {
	acmpca.GetCertificateAPIClient
	IssueCertificate(context.Context, *acmpca.IssueCertificateInput, ...func(*acmpca.Options)) (*acmpca.IssueCertificateOutput, error)
	DescribeCertificateAuthority(context.Context, *acmpca.DescribeCertificateAuthorityInput, ...func(*acmpca.Options)) (*acmpca.DescribeCertificateAuthorityOutput, error)
	GetCertificateAuthorityCertificate(context.Context, *acmpca.GetCertificateAuthorityCertificateInput, ...func(*acmpca.Options)) (*acmpca.GetCertificateAuthorityCertificateOutput, error)
}

// Notes keep a text under a key, durably; store.Store's Meta does. An empty
// text is none.
type Notes interface {
	Meta(ctx context.Context, key string) (string, error)
	SetMeta(ctx context.Context, key, text string) error
}

var _ Notes = (*store.Store)(nil)

// retryWindow is for how long ACM PCA answers the same token with the same
// certificate, less the time that a call may take. Later, the same request
// makes another one.
const retryWindow = 4 * time.Minute

// PCAIssuer has ACM Private CA sign. Each certificate is paid for, so what was
// asked for is noted before each step: a request that comes again, also after
// a restart, goes on where the one before it ended. It is a vending.Issuer,
// safe for concurrent use by different devices.
type PCAIssuer struct {
	config PCAConfig
	cas    []*pcaCA // the first is the one for devices that ask for none
}

var _ vending.Issuer = (*PCAIssuer)(nil)

// pcaNote is what has been asked of ACM PCA for a device's rotation. The whole
// request is in it, because a token stands for one request only.
type pcaNote struct {
	Rotation    int64             `json:"rotation"`
	Ask         string            `json:"ask"` // what was ordered, as a hash
	CA          string            `json:"ca"`
	Token       string            `json:"token"`
	NotBefore   int64             `json:"notBefore"`
	NotAfter    int64             `json:"notAfter"`
	Asked       time.Time         `json:"asked"`
	Certificate string            `json:"certificate,omitempty"` // the ARN, once there is one
	Key         certificate.KeyID `json:"key"`
}

// Issue is described at vending.Issuer. An order that comes again for the same
// rotation is answered with the same certificate, as soon as there is one:
// until then with TRY_AGAIN_LATER.
func (p *PCAIssuer) Issue(ctx context.Context, order certificate.Order) (certificate.Certificate, error) {
	if order.Request == nil {
		return certificate.Certificate{}, errNoRequest
	}
	ca, err := p.choose(order.Asked)
	if err != nil {
		return certificate.Certificate{}, err
	}
	facts, err := ca.facts.get(ctx)
	if err != nil {
		return certificate.Certificate{}, err
	}
	request, err := p.request(order, ca, facts)
	if err != nil {
		return certificate.Certificate{}, err
	}
	note, err := p.noted(ctx, order, request)
	if err != nil {
		return certificate.Certificate{}, err
	}
	if note.Certificate == "" {
		if err := p.ask(ctx, ca, order, request, &note); err != nil {
			return certificate.Certificate{}, err
		}
	}
	c, err := p.fetch(ctx, ca, note)
	if err != nil {
		return c, p.fetchFailed(ctx, order, err)
	}
	return c, checkIssued(c, order)
}

// noteKey is where a device's note is: one for its rotation, one for whatever
// else is issued for it.
func noteKey(order certificate.Order) string {
	if order.Rotation == 0 {
		return "pca/by-hand/" + string(order.Device)
	}
	return "pca/" + string(order.Device)
}

// noted returns the note of this order, which is durable when it returns: the
// one from before if it can still be gone on with, otherwise a new one.
func (p *PCAIssuer) noted(ctx context.Context, order certificate.Order, request *acmpca.IssueCertificateInput) (pcaNote, error) {
	now := p.config.Now()
	next := pcaNote{
		Rotation: order.Rotation, Ask: askOf(order, request), CA: *request.CertificateAuthorityArn,
		NotBefore: *request.ValidityNotBefore.Value, NotAfter: *request.Validity.Value, Asked: now,
		Key: certificate.KeyIDOf(order.Request.RawSubjectPublicKeyInfo),
	}
	text, err := p.config.Notes.Meta(ctx, noteKey(order))
	if err != nil {
		return next, fmt.Errorf("what was asked of ACM PCA for device %s: %w", order.Device, err)
	}
	var was pcaNote
	if text != "" && json.Unmarshal([]byte(text), &was) == nil && order.Rotation != 0 && was.Rotation == next.Rotation && was.Ask == next.Ask {
		if was.Certificate != "" || now.Sub(was.Asked).Abs() < retryWindow {
			return was, nil
		}
	}
	next.Token = newToken()
	return next, p.write(ctx, order, next)
}

// newToken returns what ACM PCA tells requests apart by, at most 36 characters.
func newToken() string {
	b := make([]byte, 18)
	_, _ = rand.Read(b) // never fails, by its contract
	return hex.EncodeToString(b)
}

func (p *PCAIssuer) write(ctx context.Context, order certificate.Order, note pcaNote) error {
	text, err := json.Marshal(note)
	if err == nil {
		err = p.config.Notes.SetMeta(ctx, noteKey(order), string(text))
	}
	if err != nil {
		return fmt.Errorf("note what is asked of ACM PCA for device %s: %w", order.Device, err)
	}
	return nil
}

// askOf is everything that was ordered, but the times, which are those of the
// first request.
func askOf(order certificate.Order, request *acmpca.IssueCertificateInput) string {
	h := sha256.New()
	h.Write(request.Csr)
	for _, part := range []any{request.CertificateAuthorityArn, request.TemplateArn, request.SigningAlgorithm, request.ApiPassthrough, order.Asked} {
		text, _ := json.Marshal(part) // of plain types, which cannot fail
		h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ask orders the certificate, by the note, and notes its ARN before anybody
// waits for it.
func (p *PCAIssuer) ask(ctx context.Context, ca *pcaCA, order certificate.Order, request *acmpca.IssueCertificateInput, note *pcaNote) error {
	request.IdempotencyToken = &note.Token
	request.Validity.Value, request.ValidityNotBefore.Value = &note.NotAfter, &note.NotBefore
	out, err := ca.Client.IssueCertificate(ctx, request)
	if err != nil {
		if !isPassing(err) {
			ca.facts.drop() // they may be why
		}
		return p.askFailed(order, ca, err)
	}
	if out.CertificateArn == nil {
		return fmt.Errorf("issue for device %s with %s: no ARN of a certificate came back", order.Device, ca.ARN)
	}
	note.Certificate = *out.CertificateArn
	return p.write(context.WithoutCancel(ctx), order, *note)
}

func (p *PCAIssuer) askFailed(order certificate.Order, ca *pcaCA, err error) error {
	err = fmt.Errorf("issue for device %s with %s: %w", order.Device, ca.ARN, err)
	var state *types.InvalidStateException
	var arn *types.InvalidArnException
	var missing *types.ResourceNotFoundException
	if errors.As(err, &state) || errors.As(err, &arn) || errors.As(err, &missing) {
		return refuse(certificate.ErrNoCA, err)
	}
	return refuse(nil, err)
}

// fetch waits for the certificate until its patience ends.
func (p *PCAIssuer) fetch(ctx context.Context, ca *pcaCA, note pcaNote) (certificate.Certificate, error) {
	waiter := acmpca.NewCertificateIssuedWaiter(ca.Client, func(o *acmpca.CertificateIssuedWaiterOptions) {
		o.MinDelay, o.MaxDelay = p.config.Poll, 4*p.config.Poll
		o.Retryable = isInProgress
	})
	out, err := waiter.WaitForOutput(ctx, &acmpca.GetCertificateInput{
		CertificateAuthorityArn: &note.CA, CertificateArn: &note.Certificate,
	}, p.config.Patience)
	if err != nil {
		return certificate.Certificate{}, fmt.Errorf("certificate %s of ACM PCA: %w", note.Certificate, err)
	}
	c, err := readIssued(out)
	if err != nil {
		return c, &brokenError{fmt.Errorf("certificate %s of ACM PCA: %w", note.Certificate, err)}
	}
	return c, nil
}

// isInProgress is the waiter's own rule, but that it keeps what else went wrong.
func isInProgress(_ context.Context, _ *acmpca.GetCertificateInput, _ *acmpca.GetCertificateOutput, err error) (bool, error) {
	var wait *types.RequestInProgressException
	if errors.As(err, &wait) {
		return true, nil
	}
	return false, err
}

// brokenError is a certificate that has come and is none.
type brokenError struct{ error }

// readIssued returns the leaf with what signed it, issuer first.
func readIssued(out *acmpca.GetCertificateOutput) (certificate.Certificate, error) {
	if out.Certificate == nil || out.CertificateChain == nil {
		return certificate.Certificate{}, errors.New("nothing came back, or no chain")
	}
	leaf, err := readChain(*out.Certificate)
	if err != nil {
		return certificate.Certificate{}, err
	}
	above, err := readChain(*out.CertificateChain)
	if err != nil {
		return certificate.Certificate{}, fmt.Errorf("its chain: %w", err)
	}
	if err := leaf[0].CheckSignatureFrom(above[0]); err != nil {
		return certificate.Certificate{}, fmt.Errorf("its chain did not sign it: %w", err)
	}
	chain := make([][]byte, len(above))
	for i, c := range above {
		chain[i] = c.Raw
	}
	return certificate.New(leaf[0].Raw, chain)
}

// fetchFailed says what follows from a certificate that did not come: one that
// ACM PCA gave up is forgotten, so that the next request asks anew; any other
// may come yet.
func (p *PCAIssuer) fetchFailed(ctx context.Context, order certificate.Order, err error) error {
	var failed *types.RequestFailedException
	var missing *types.ResourceNotFoundException
	if errors.As(err, &failed) || errors.As(err, &missing) {
		return errors.Join(err, p.config.Notes.SetMeta(ctx, noteKey(order), ""))
	}
	var broken *brokenError
	if errors.As(err, &broken) {
		return err
	}
	if codeOf(err) != "" && !isPassing(err) {
		return err
	}
	return &vending.Error{Reason: protocol.TryAgainLater, Wait: 2 * time.Second, Err: err}
}

// checkIssued refuses a certificate that is not what was ordered: a CA, or
// another name or key, that somebody's template made of it.
func checkIssued(c certificate.Certificate, order certificate.Order) error {
	parsed, err := c.X509()
	if err != nil {
		return err
	}
	switch {
	case !issuing.SameKey(parsed.PublicKey, order.Key):
		return fmt.Errorf("the certificate for device %s has another key than was ordered", order.Device)
	case parsed.IsCA:
		return fmt.Errorf("the certificate for device %s is one of a CA: look at the template", order.Device)
	case parsed.Subject.CommonName != commonNameOf(order.RawSubject):
		return fmt.Errorf("the certificate for device %s is for %q: look at the template", order.Device, parsed.Subject.CommonName)
	}
	return nil
}

// errNoRequest is an order that only an issuer with a key could fill.
var errNoRequest = errors.New("this CA issues for a CSR alone, and the order has none")

func csrPEM(order certificate.Order) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: order.Request.Raw})
}
