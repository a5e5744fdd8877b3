package issuing

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// prepared signs with an ECDSA key that is in this process. What is the same in
// every certificate is encoded once, and a signature is not verified after it
// was made, which takes longer than making it: docs/decisions/0020 says why that
// is safe for such a key, and for no other.
type prepared struct {
	key    *ecdsa.PrivateKey
	hash   crypto.Hash
	sample tbsCertificate // every certificate, but for what each has of its own
	ski    int            // which of its extensions is the subject key identifier
	san    int            // and which the subject alternative name
}

// signedCertificate is Certificate of RFC 5280, section 4.1.
type signedCertificate struct {
	TBS       asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

// tbsCertificate is TBSCertificate of RFC 5280, section 4.1.
type tbsCertificate struct {
	Version    int `asn1:"explicit,tag:0"`
	Serial     *big.Int
	Algorithm  pkix.AlgorithmIdentifier
	Issuer     asn1.RawValue
	Validity   struct{ NotBefore, NotAfter time.Time }
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Extensions []pkix.Extension `asn1:"explicit,tag:3"`
}

// Object identifiers of RFC 5280, sections 4.2.1.2 and 4.2.1.6.
var (
	subjectKeyID = asn1.ObjectIdentifier{2, 5, 29, 14}
	subjectNames = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// prepare has crypto/x509 make a certificate of this authority, which it also
// verifies, and keeps it as the sample of all others. It returns nil for a key
// that is not an ECDSA key in this process.
func (a *Authority) prepare() (*prepared, error) {
	key, ok := a.signer.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil
	}
	template, err := a.template(certificate.Order{Device: "sample", Key: key.Public(), NotBefore: a.notBefore, NotAfter: a.notAfter})
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.issuer, key.Public(), key)
	if err != nil {
		return nil, err
	}
	p := &prepared{key: key, hash: hashFor(key)}
	return p, p.read(der)
}

// hashFor returns the hash that goes with a key, as crypto/x509 chooses it.
func hashFor(key *ecdsa.PrivateKey) crypto.Hash {
	switch key.Curve {
	case elliptic.P384():
		return crypto.SHA384
	case elliptic.P521():
		return crypto.SHA512
	}
	return crypto.SHA256
}

// read takes the sample apart.
func (p *prepared) read(der []byte) error {
	var whole signedCertificate
	if _, err := asn1.Unmarshal(der, &whole); err != nil {
		return fmt.Errorf("read the sample: %w", err)
	}
	if _, err := asn1.Unmarshal(whole.TBS.FullBytes, &p.sample); err != nil {
		return fmt.Errorf("read the sample: %w", err)
	}
	p.ski, p.san = -1, -1
	for i, e := range p.sample.Extensions {
		switch {
		case e.Id.Equal(subjectKeyID):
			p.ski = i
		case e.Id.Equal(subjectNames):
			p.san = i
		}
	}
	again, err := asn1.Marshal(p.sample)
	if err == nil && (p.ski < 0 || p.san < 0 || !bytes.Equal(again, whole.TBS.FullBytes)) {
		err = errors.New("it is not what was signed")
	}
	if err != nil {
		return fmt.Errorf("read the sample: %w", err)
	}
	return nil
}

// sign makes the certificate that crypto/x509 would make of the template.
func (p *prepared) sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	tbs, err := p.toBeSigned(template, public)
	if err != nil {
		return nil, err
	}
	digest := p.hash.New()
	digest.Write(tbs)
	signature, err := p.key.Sign(rand.Reader, digest.Sum(nil), p.hash)
	if err != nil {
		return nil, errors.Join(certificate.ErrNoCAKey, err)
	}
	return asn1.Marshal(signedCertificate{
		TBS: asn1.RawValue{FullBytes: tbs}, Algorithm: p.sample.Algorithm,
		Signature: asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	})
}

// toBeSigned is the sample with what is the certificate's own.
func (p *prepared) toBeSigned(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	key, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	keyID, err := asn1.Marshal(template.SubjectKeyId)
	if err != nil {
		return nil, err
	}
	const uri = 6 // of GeneralName, RFC 5280, 4.2.1.6
	names, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: uri, Bytes: []byte(template.URIs[0].String())},
	})
	if err != nil {
		return nil, err
	}
	tbs := p.sample
	tbs.Serial = template.SerialNumber
	tbs.Validity.NotBefore, tbs.Validity.NotAfter = template.NotBefore, template.NotAfter
	tbs.Subject = asn1.RawValue{FullBytes: template.RawSubject}
	tbs.PublicKey = asn1.RawValue{FullBytes: key}
	tbs.Extensions = append([]pkix.Extension(nil), p.sample.Extensions...)
	tbs.Extensions[p.ski].Value = keyID
	tbs.Extensions[p.san].Value = names
	tbs.Extensions[p.san].Critical = bytes.Equal(template.RawSubject, emptyName)
	return asn1.Marshal(tbs)
}
