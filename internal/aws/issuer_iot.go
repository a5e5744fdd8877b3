package aws

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/vending"
)

// IoTSigner has AWS IoT Core's own CA sign; an *iot.Client is one.
type IoTSigner interface {
	CreateCertificateFromCsr(context.Context, *iot.CreateCertificateFromCsrInput, ...func(*iot.Options)) (*iot.CreateCertificateFromCsrOutput, error)
}

// IoTIssuer has AWS IoT Core's own CA sign. That CA goes by the CSR, signs until
// the end of 2049 whatever is ordered, and registers what it signs, INACTIVE
// here: Inventory.Register finds it there and activates it. It knows no token:
// a request that comes again gets another certificate, and what was signed
// before and never vended stays behind INACTIVE. It is a vending.Issuer, safe
// for concurrent use.
type IoTIssuer struct{ IoT IoTSigner }

var _ vending.Issuer = IoTIssuer{}

// Issue is described at vending.Issuer, but for the end of the certificate.
func (i IoTIssuer) Issue(ctx context.Context, order certificate.Order) (certificate.Certificate, error) {
	if order.Request == nil {
		return certificate.Certificate{}, errNoRequest
	}
	if err := saysItself(order); err != nil {
		return certificate.Certificate{}, err
	}
	out, err := i.IoT.CreateCertificateFromCsr(ctx, &iot.CreateCertificateFromCsrInput{
		CertificateSigningRequest: new(string(csrPEM(order))), SetAsActive: false,
	})
	if err != nil {
		return certificate.Certificate{}, refuse(nil, fmt.Errorf("have AWS IoT issue for device %s: %w", order.Device, err))
	}
	if out.CertificatePem == nil {
		return certificate.Certificate{}, errors.New("have AWS IoT issue for device " + string(order.Device) + ": no certificate came back")
	}
	signed, err := readChain(*out.CertificatePem)
	if err != nil {
		return certificate.Certificate{}, fmt.Errorf("have AWS IoT issue for device %s: %w", order.Device, err)
	}
	c, err := certificate.New(signed[0].Raw, nil)
	if err != nil {
		return c, err
	}
	return c, checkIssued(c, order)
}
