package aws

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
)

// CAFinder finds the certificate of a CA that is registered in AWS IoT; an
// *iot.Client is one.
type CAFinder interface {
	DescribeCACertificate(context.Context, *iot.DescribeCACertificateInput, ...func(*iot.Options)) (*iot.DescribeCACertificateOutput, error)
}

// RegisteredCA returns the certificate of a CA that is registered in AWS IoT,
// or an error of kind certificate.ErrNoCA. One that is not ACTIVE there is
// refused: nothing that it signs could be registered.
func RegisteredCA(ctx context.Context, finder CAFinder, id certificate.ID) (*x509.Certificate, error) {
	out, err := finder.DescribeCACertificate(ctx, &iot.DescribeCACertificateInput{CertificateId: new(string(id))})
	if err != nil {
		return nil, refuse(certificate.ErrNoCA, fmt.Errorf("describe CA certificate %s: %w", id, err))
	}
	d := out.CertificateDescription
	if d == nil || d.CertificatePem == nil {
		return nil, fmt.Errorf("%w: AWS IoT has none for CA certificate %s", certificate.ErrNoCA, id)
	}
	if d.Status != types.CACertificateStatusActive {
		return nil, fmt.Errorf("%w: CA certificate %s is %s in AWS IoT: activate it", certificate.ErrNoCA, id, d.Status)
	}
	chain, err := readChain(*d.CertificatePem)
	if err != nil {
		return nil, fmt.Errorf("%w: CA certificate %s: %w", certificate.ErrNoCA, id, err)
	}
	return chain[0], nil
}

// readChain reads one or more certificates from PEM.
func readChain(text string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate in the PEM text")
	}
	return all, nil
}
