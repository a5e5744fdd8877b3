package certificate

import (
	"crypto"
	"crypto/x509"
	"time"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// Request is a certificate signing request that has passed ParseRequest. Its
// self-signature has not been checked yet: CheckSignature does that.
type Request struct {
	CSR *x509.CertificateRequest
	Key KeyID
}

// Order is what an issuer is asked to sign. Everything in it has been decided;
// nothing of a request's extensions is.
type Order struct {
	Device     registry.DeviceID
	Key        crypto.PublicKey
	RawSubject []byte // DER of the name
	NotBefore  time.Time
	NotAfter   time.Time // an issuer clamps it to its CA's own
	// Request is the CSR as it came, for issuers that take nothing else.
	Request *x509.CertificateRequest
	// Rotation is the number of the device's rotation that it is for, 0: none.
	// An order for the same key that comes again under the same number is the
	// same order, and an issuer that can tell answers it with what it made.
	Rotation int64
	// Asked is what the device asks of ACM Private CA; other issuers ignore it.
	Asked *protocol.ACMPCAParameters
}
