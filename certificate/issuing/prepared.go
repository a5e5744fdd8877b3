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

	version    []byte // in DER, as is what follows
	algorithm  []byte
	extensions [][]byte
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
	Validity   validity
	Subject    asn1.RawValue
	PublicKey  asn1.RawValue
	Extensions []pkix.Extension `asn1:"explicit,tag:3"`
}

type validity struct{ NotBefore, NotAfter time.Time }

// Object identifiers of RFC 5280, sections 4.2.1.2 and 4.2.1.6, in DER.
var (
	subjectKeyID = []byte{0x06, 0x03, 0x55, 0x1d, 0x0e} // 2.5.29.14
	subjectNames = []byte{0x06, 0x03, 0x55, 0x1d, 0x11} // 2.5.29.17
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
		id, err := asn1.Marshal(e.Id)
		switch {
		case err != nil:
			return fmt.Errorf("read the sample: %w", err)
		case bytes.Equal(id, subjectKeyID):
			p.ski = i
		case bytes.Equal(id, subjectNames):
			p.san = i
		}
	}
	again, err := asn1.Marshal(p.sample)
	if err == nil && (p.ski < 0 || p.san < 0 || !bytes.Equal(again, whole.TBS.FullBytes)) {
		err = errors.New("it is not what was signed")
	}
	if err == nil {
		err = p.encode()
	}
	if err != nil {
		return fmt.Errorf("read the sample: %w", err)
	}
	return nil
}

// encode encodes what every certificate has.
func (p *prepared) encode() (err error) {
	if p.version, err = asn1.MarshalWithParams(p.sample.Version, "explicit,tag:0"); err != nil {
		return err
	}
	if p.algorithm, err = asn1.Marshal(p.sample.Algorithm); err != nil {
		return err
	}
	p.extensions = make([][]byte, len(p.sample.Extensions))
	for i, e := range p.sample.Extensions {
		if p.extensions[i], err = asn1.Marshal(e); err != nil {
			return err
		}
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
	return der(sequence, tbs, p.algorithm, der(bitString, wholeOctets, signature)), nil
}

// toBeSigned is the sample with what is the certificate's own.
func (p *prepared) toBeSigned(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	key, err := certificate.SPKI(public)
	if err != nil {
		return nil, err
	}
	validity, err := asn1.Marshal(validity{template.NotBefore, template.NotAfter})
	if err != nil {
		return nil, err
	}
	names := der(sequence, der(uniformName, []byte(template.URIs[0].String())))
	extensions := append([][]byte(nil), p.extensions...)
	extensions[p.ski] = extension(subjectKeyID, false, der(octets, template.SubjectKeyId))
	extensions[p.san] = extension(subjectNames, bytes.Equal(template.RawSubject, emptyName), names)
	return der(sequence, p.version, number(template.SerialNumber), p.algorithm, p.sample.Issuer.FullBytes, validity,
		template.RawSubject, key, der(theExtensions, der(sequence, extensions...))), nil
}

// The tags of X.690, 8.14, that a certificate is made of.
const (
	integer       = 0x02
	bitString     = 0x03
	octets        = 0x04
	sequence      = 0x30
	uniformName   = 0x86 // uniformResourceIdentifier of GeneralName, RFC 5280, 4.2.1.6
	theExtensions = 0xa3 // of TBSCertificate, RFC 5280, 4.1
)

// wholeOctets begins a bit string that has no bits unused.
var wholeOctets = []byte{0}

// extension is Extension of RFC 5280, section 4.1; id in DER.
func extension(id []byte, critical bool, value []byte) []byte {
	if critical {
		return der(sequence, id, []byte{0x01, 0x01, 0xff}, der(octets, value))
	}
	return der(sequence, id, der(octets, value))
}

// number is a number that is not negative.
func number(n *big.Int) []byte {
	if n.BitLen()%8 == 0 { // its first bit would be its sign
		return der(integer, []byte{0}, n.Bytes())
	}
	return der(integer, n.Bytes())
}

// der is a value of a tag, whose content is put together from parts (X.690, 8.1).
func der(tag byte, parts ...[]byte) []byte {
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	whole := append(make([]byte, 0, size+4), tag)
	switch {
	case size < 0x80:
		whole = append(whole, byte(size))
	case size <= 0xff:
		whole = append(whole, 0x81, byte(size))
	case size <= 0xffff:
		whole = append(whole, 0x82, byte(size>>8), byte(size))
	default:
		whole = append(whole, 0x83, byte(size>>16), byte(size>>8), byte(size))
	}
	for _, part := range parts {
		whole = append(whole, part...)
	}
	return whole
}
