package aws

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"

	"github.com/certvendor/certvendor/certificate/issuing"
)

const (
	// proofLife is how long what proves a CA's key is valid: it is used at once.
	proofLife = 24 * time.Hour
	// proofPatience is how long ACM PCA may take for it.
	proofPatience = time.Minute
)

// codeRequest makes a key that nobody keeps, and a CSR for the code.
func codeRequest(code string) (*x509.CertificateRequest, error) {
	if code == "" {
		return nil, errors.New("AWS IoT has given no registration code")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: code}}, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificateRequest(der)
}

// KeyedCA is a CA whose certificate is at hand, with a key in a file or in KMS.
type KeyedCA struct {
	CA  *x509.Certificate
	Key KeySource // nil: it can be registered, and cannot vouch
}

var _ Voucher = KeyedCA{}

// Certificate is described at Voucher.
func (k KeyedCA) Certificate(ctx context.Context) (*x509.Certificate, error) {
	if k.Key == nil {
		return k.CA, nil
	}
	key, err := k.Key.Key(ctx)
	if err != nil {
		return nil, err
	}
	if !issuing.SameKey(key.During(ctx).Public(), k.CA.PublicKey) {
		return nil, fmt.Errorf("the key is not that of CA %q", k.CA.Subject)
	}
	return k.CA, nil
}

// Vouch is described at Voucher.
func (k KeyedCA) Vouch(ctx context.Context, csr *x509.CertificateRequest, now time.Time) (*x509.Certificate, error) {
	if k.Key == nil {
		return nil, errors.New("its key is needed for that")
	}
	key, err := k.Key.Key(ctx)
	if err != nil {
		return nil, err
	}
	serial, err := issuing.Serial()
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: csr.Subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(proofLife),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, k.CA, csr.PublicKey, key.During(ctx))
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// PrivateCAVoucher is a CA of ACM Private CA.
type PrivateCAVoucher struct {
	ARN    string
	Client *acmpca.Client // of its region and account
	// Algorithm is how it signs. Optional: the usual for its key.
	Algorithm types.SigningAlgorithm
}

var _ Voucher = PrivateCAVoucher{}

// Certificate is described at Voucher: ACM PCA keeps the key.
func (p PrivateCAVoucher) Certificate(ctx context.Context) (*x509.Certificate, error) {
	out, err := p.Client.GetCertificateAuthorityCertificate(ctx, &acmpca.GetCertificateAuthorityCertificateInput{
		CertificateAuthorityArn: &p.ARN,
	})
	if err != nil {
		return nil, fmt.Errorf("get the certificate of %s: %w", p.ARN, err)
	}
	ca, err := ReadCA([]byte(deref(out.Certificate)))
	if err != nil {
		return nil, fmt.Errorf("the certificate of %s: %w", p.ARN, err)
	}
	return ca, nil
}

// Vouch is described at Voucher. It is paid for.
func (p PrivateCAVoucher) Vouch(ctx context.Context, csr *x509.CertificateRequest, now time.Time) (*x509.Certificate, error) {
	ca := &pcaCA{PCA: PCA{ARN: p.ARN, Client: p.Client, Algorithm: p.Algorithm}}
	facts, err := ca.describe(ctx)
	if err != nil {
		return nil, err
	}
	parsed, err := arn.Parse(p.ARN)
	if err != nil {
		return nil, err
	}
	at := func(t time.Time) *types.Validity {
		return &types.Validity{Type: types.ValidityPeriodTypeAbsolute, Value: new(t.Unix())}
	}
	issued, err := p.Client.IssueCertificate(ctx, &acmpca.IssueCertificateInput{
		CertificateAuthorityArn: &p.ARN, Csr: csrText(csr), SigningAlgorithm: facts.algorithm,
		TemplateArn: new(pcaTemplate(parsed.Partition, true)), IdempotencyToken: new(newToken()),
		ValidityNotBefore: at(now.Add(-time.Hour)), Validity: at(now.Add(proofLife)),
	})
	if err != nil {
		return nil, fmt.Errorf("issue with %s: %w", p.ARN, err)
	}
	out, err := acmpca.NewCertificateIssuedWaiter(p.Client, func(o *acmpca.CertificateIssuedWaiterOptions) {
		o.MinDelay, o.MaxDelay, o.Retryable = 300*time.Millisecond, 2*time.Second, isInProgress
	}).WaitForOutput(ctx, &acmpca.GetCertificateInput{
		CertificateAuthorityArn: &p.ARN, CertificateArn: issued.CertificateArn,
	}, proofPatience)
	if err != nil {
		return nil, fmt.Errorf("certificate %s of ACM PCA: %w", deref(issued.CertificateArn), err)
	}
	return ReadCA([]byte(deref(out.Certificate)))
}
