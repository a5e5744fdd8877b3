package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"slices"
)

// What a SubjectPublicKeyInfo begins with on each curve, before the point
// (RFC 5480, section 2): all but the point is the same in every one.
var (
	p256Info = []byte("\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00")
	p384Info = []byte("\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00")
	p521Info = []byte("\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00")
)

// SPKI returns a public key's SubjectPublicKeyInfo in DER, as
// x509.MarshalPKIXPublicKey does, for an elliptic curve in a tenth of its time.
func SPKI(public crypto.PublicKey) ([]byte, error) {
	key, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return x509.MarshalPKIXPublicKey(public)
	}
	var info []byte
	switch key.Curve {
	case elliptic.P256():
		info = p256Info
	case elliptic.P384():
		info = p384Info
	case elliptic.P521():
		info = p521Info
	default:
		return x509.MarshalPKIXPublicKey(public)
	}
	point, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	return slices.Concat(info, point), nil
}
