package aws

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
)

// Voucher is a CA that can sign, wherever its key is.
type Voucher interface {
	// Certificate returns the CA's own certificate, once it is sure that the key
	// is that certificate's.
	Certificate(context.Context) (*x509.Certificate, error)
	// Vouch has the CA sign a short-lived certificate for a CSR, and returns it.
	Vouch(ctx context.Context, csr *x509.CertificateRequest, now time.Time) (*x509.Certificate, error)
}

// CARegistration says how a CA is to become one of AWS IoT.
type CARegistration struct {
	IoT *iot.Client
	CA  Voucher
	// Verified has the CA prove to AWS that its key is ours: mode DEFAULT, in
	// which one account of a region alone may have it, and devices need no SNI.
	// Otherwise it is SNI_ONLY.
	Verified bool
	Now      func() time.Time
}

// CAState is how a CA stands in AWS IoT.
type CAState struct {
	ID       certificate.ID
	Subject  string
	NotAfter time.Time
	Mode     types.CertificateMode // empty where AWS does not say
	Status   types.CACertificateStatus
	Made     bool // registered by this run
	Woken    bool // made ACTIVE by this run; it was registered before
}

// Register registers a CA and sees that it is ACTIVE. Idempotent: one that is
// registered stays so, in the mode that it has. It fails if that is not the one
// that is wanted.
func (r CARegistration) Register(ctx context.Context) (CAState, error) {
	ca, err := r.CA.Certificate(ctx)
	if err != nil {
		return CAState{}, err
	}
	if err := r.fits(ca); err != nil {
		return CAState{}, err
	}
	is := CAState{ID: certificate.IDOf(ca.Raw)}
	there, err := r.describe(ctx, is.ID)
	if err != nil {
		return is, err
	}
	if there == nil {
		if is.ID, is.Made, err = r.enter(ctx, ca, is.ID); err != nil {
			return is, err
		}
		if there, err = r.describe(ctx, is.ID); err != nil {
			return is, err
		}
		if there == nil {
			return is, fmt.Errorf("CA certificate %s was registered, and AWS IoT does not know it: look again in a minute", is.ID)
		}
	}
	is.Subject, is.NotAfter, is.Mode, is.Status = ca.Subject.String(), ca.NotAfter, there.CertificateMode, there.Status
	if is.Status != types.CACertificateStatusActive {
		if err := r.wake(ctx, is.ID); err != nil {
			return is, err
		}
		is.Status, is.Woken = types.CACertificateStatusActive, !is.Made
	}
	if is.Mode != "" && is.Mode != r.mode() {
		return is, fmt.Errorf("CA certificate %s is registered in mode %s, which cannot be changed: "+
			"leave it so, or make it INACTIVE, delete it in AWS IoT and run this again", is.ID, is.Mode)
	}
	return is, nil
}

func (r CARegistration) mode() types.CertificateMode {
	if r.Verified {
		return types.CertificateModeDefault
	}
	return types.CertificateModeSniOnly
}

// fits refuses what AWS IoT would take and devices could not use.
func (r CARegistration) fits(ca *x509.Certificate) error {
	switch now := r.Now(); {
	case !ca.IsCA:
		return fmt.Errorf("%q is no CA certificate", ca.Subject)
	case now.After(ca.NotAfter):
		return fmt.Errorf("CA %q has expired on %s", ca.Subject, ca.NotAfter.UTC().Format(time.DateOnly))
	case now.Before(ca.NotBefore):
		return fmt.Errorf("CA %q is not valid before %s: is the clock right?", ca.Subject, ca.NotBefore.UTC().Format(time.DateTime))
	}
	return nil
}

// describe returns how a CA stands, or nil if AWS IoT does not know it.
func (r CARegistration) describe(ctx context.Context, id certificate.ID) (*types.CACertificateDescription, error) {
	out, err := r.IoT.DescribeCACertificate(ctx, &iot.DescribeCACertificateInput{CertificateId: new(string(id))})
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("describe CA certificate %s: %w", id, err)
	}
	return out.CertificateDescription, nil
}

// enter registers the CA, unless AWS has it under another id than ours.
func (r CARegistration) enter(ctx context.Context, ca *x509.Certificate, own certificate.ID) (id certificate.ID, made bool, err error) {
	in := &iot.RegisterCACertificateInput{CaCertificate: new(encode(ca.Raw)), CertificateMode: r.mode(), SetAsActive: true}
	if r.Verified {
		proof, err := r.proof(ctx, ca)
		if err != nil {
			return own, false, err
		}
		in.VerificationCertificate = new(encode(proof.Raw))
	}
	out, err := r.IoT.RegisterCACertificate(ctx, in)
	var there *types.ResourceAlreadyExistsException
	switch {
	case errors.As(err, &there) && there.ResourceId != nil:
		return certificate.ID(*there.ResourceId), false, nil
	case err != nil:
		return own, false, fmt.Errorf("register CA %q: %w", ca.Subject, err)
	}
	return certificate.ID(deref(out.CertificateId)), true, nil
}

// proof is a certificate for the account's registration code, signed by the CA.
func (r CARegistration) proof(ctx context.Context, ca *x509.Certificate) (*x509.Certificate, error) {
	code, err := r.IoT.GetRegistrationCode(ctx, &iot.GetRegistrationCodeInput{})
	if err != nil {
		return nil, fmt.Errorf("get the registration code: %w", err)
	}
	csr, err := codeRequest(deref(code.RegistrationCode))
	if err != nil {
		return nil, err
	}
	proof, err := r.CA.Vouch(ctx, csr, r.Now())
	if err != nil {
		return nil, fmt.Errorf("have CA %q sign the registration code: %w", ca.Subject, err)
	}
	if err := proof.CheckSignatureFrom(ca); err != nil {
		return nil, fmt.Errorf("what CA %q has signed does not verify by its certificate: %w", ca.Subject, err)
	}
	if proof.Subject.CommonName != csr.Subject.CommonName {
		return nil, fmt.Errorf("CA %q has signed another name than the registration code: look at its template", ca.Subject)
	}
	return proof, nil
}

func (r CARegistration) wake(ctx context.Context, id certificate.ID) error {
	_, err := r.IoT.UpdateCACertificate(ctx, &iot.UpdateCACertificateInput{
		CertificateId: new(string(id)), NewStatus: types.CACertificateStatusActive,
	})
	if err != nil {
		return fmt.Errorf("make CA certificate %s ACTIVE: %w", id, err)
	}
	return nil
}

// ReadCA reads one CA certificate from PEM.
func ReadCA(text []byte) (*x509.Certificate, error) {
	chain, err := readChain(string(text))
	if err != nil {
		return nil, err
	}
	return chain[0], nil
}

func csrText(csr *x509.CertificateRequest) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr.Raw})
}
