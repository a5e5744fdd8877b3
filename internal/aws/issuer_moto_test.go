package aws

import (
	"crypto"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	"crypto/x509"

	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	pcatypes "github.com/aws/aws-sdk-go-v2/service/acmpca/types"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/certvendor/certvendor/certificate"
)

// A CA registered in AWS IoT, its key in SSM where the original keeps it.
func TestSSMIssuer(t *testing.T) {
	for kind, key := range caKeys(t) {
		t.Run(kind, func(t *testing.T) {
			clients := dialMoto(t, newAccount(), nil)
			rootKey := ecKey(t)
			root := caOf(t, "root", rootKey.Public(), nil, rootKey, 20)
			ca := caOf(t, "issuing", key.Public(), root, rootKey, 10)
			id := registerCA(t, clients, ca)
			put := func(name string, key crypto.Signer) {
				_, err := clients.SSM.PutParameter(t.Context(), &ssm.PutParameterInput{
					Name: &name, Type: types.ParameterTypeSecureString, Value: new(keyPEM(t, key)),
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			put(KeyParameter(id), key)
			i, err := NewKeyIssuer(KeyIssuerConfig{
				CA: clients.IoT, ID: id, Above: []*x509.Certificate{root}, Now: time.Now,
				Key: ParameterKey{SSM: clients.SSM, Name: KeyParameter(id)},
			})
			if err != nil {
				t.Fatal(err)
			}
			testIssuer(t, candidate{Issuer: i, root: root, notAfter: ca.NotAfter})
		})
	}
}

func registerCA(t *testing.T, clients *Clients, ca *x509.Certificate) certificate.ID {
	t.Helper()
	out, err := clients.IoT.RegisterCACertificate(t.Context(), &iot.RegisterCACertificateInput{
		CaCertificate: new(pemText(ca)), VerificationCertificate: new(pemText(ca)), SetAsActive: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return certificate.ID(*out.CertificateId)
}

// moto signs with what it has, whatever it is told of lives and profiles; the
// rest of the examination is the same. The CA is in another account and
// region, behind a role.
func TestPCAIssuerOnMoto(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	config := clients.Config.Copy()
	config.HTTPClient = http.DefaultClient // without the header that puts calls into an account
	const none = "arn:aws:acm-pca:eu-central-1:123456789012:certificate-authority/none"
	there, err := PrivateCAIn(config, none, "arn:aws:iam::"+newAccount()+":role/pca")
	if err != nil {
		t.Fatal(err)
	}
	arn, root := createPCA(t, there)
	here, err := PrivateCAIn(config, none, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := here.DescribeCertificateAuthority(t.Context(), &acmpca.DescribeCertificateAuthorityInput{CertificateAuthorityArn: &arn}); codeOf(err) != notFound {
		t.Fatalf("the CA is in our own account: %v", err)
	}
	p, err := NewPCAIssuer(PCAConfig{
		CAs: []PCA{{ARN: arn, Client: there}}, Notes: &notes{}, Poll: 10 * time.Millisecond, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	testIssuer(t, candidate{Issuer: p, root: root, anyLife: true, anyProfile: true})
	if until, err := p.Signs(t.Context()); err != nil || until.Before(time.Now()) {
		t.Errorf("until %s: %v", until, err)
	}
}

// createPCA makes a root CA, as seed 002 describes it, and returns its ARN.
func createPCA(t *testing.T, client *acmpca.Client) (string, *x509.Certificate) {
	t.Helper()
	made, err := client.CreateCertificateAuthority(t.Context(), &acmpca.CreateCertificateAuthorityInput{
		CertificateAuthorityType: pcatypes.CertificateAuthorityTypeRoot,
		CertificateAuthorityConfiguration: &pcatypes.CertificateAuthorityConfiguration{
			KeyAlgorithm: pcatypes.KeyAlgorithmRsa2048, SigningAlgorithm: pcatypes.SigningAlgorithmSha256withrsa,
			Subject: &pcatypes.ASN1Subject{CommonName: new("mill")},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ca := made.CertificateAuthorityArn
	csr, err := client.GetCertificateAuthorityCsr(t.Context(), &acmpca.GetCertificateAuthorityCsrInput{CertificateAuthorityArn: ca})
	if err != nil {
		t.Fatal(err)
	}
	self, err := client.IssueCertificate(t.Context(), &acmpca.IssueCertificateInput{
		CertificateAuthorityArn: ca, Csr: []byte(*csr.Csr), SigningAlgorithm: pcatypes.SigningAlgorithmSha256withrsa,
		TemplateArn: new("arn:aws:acm-pca:::template/RootCACertificate/V1"),
		Validity:    &pcatypes.Validity{Type: pcatypes.ValidityPeriodTypeDays, Value: new(int64(365))},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.GetCertificate(t.Context(), &acmpca.GetCertificateInput{CertificateAuthorityArn: ca, CertificateArn: self.CertificateArn})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.ImportCertificateAuthorityCertificate(t.Context(), &acmpca.ImportCertificateAuthorityCertificateInput{
		CertificateAuthorityArn: ca, Certificate: []byte(*got.Certificate),
	})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(*got.Certificate))
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return *ca, root
}
