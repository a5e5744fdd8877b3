package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	iottypes "github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// PCA is a CA of ACM Private CA that may sign.
type PCA struct {
	ARN    string
	Alias  string    // by which devices may ask for it; upper and lower case are one; optional
	Client PrivateCA // see PrivateCAIn
	// FromCSR has subject and alternative names come from the CSR instead of
	// the order, for a CA whose owner allows no template that passes them on.
	// What the CSR does not say as it was decided is refused then.
	FromCSR bool
	// Algorithm is one of the CA's family; empty: the usual one of its key.
	Algorithm types.SigningAlgorithm
}

// IoTCA is a CA as AWS IoT knows it, for requests that name one: it registers
// what ACM PCA signs, and is that CA under its other name.
type IoTCA struct {
	ID    certificate.ID
	Alias string
}

// PCAConfig is what a PCAIssuer needs. Nothing but what is listed may be asked
// for.
type PCAConfig struct {
	CAs    []PCA // the first signs for devices that ask for none
	IoTCAs []IoTCA
	Notes  Notes
	// Registry is AWS IoT's, where what is signed is registered under its CA:
	// one that is INACTIVE there signs nothing that could be registered. Nil:
	// it is not asked.
	Registry CAFinder
	// CertInfo lets devices say what is in their subject besides the name.
	CertInfo bool
	// MaxDays is the longest life that a device may ask for; 0: none may be
	// asked for.
	MaxDays  int
	Patience time.Duration // how long a request waits for its certificate; 15 s
	Poll     time.Duration // how often it looks, at first; 300 ms
	Lifetime time.Duration // how long what is known of a CA is cached; 10 minutes
	Now      func() time.Time
}

// pcaCA is a CA with what ACM PCA says of it.
type pcaCA struct {
	PCA
	facts    cache[pcaFacts]
	registry CAFinder
}

// pcaFacts are what an order must know of a CA.
type pcaFacts struct {
	algorithm types.SigningAlgorithm
	notAfter  time.Time
	shortLife bool // signs for seven days at most
}

// shortLife is the longest that a CA of that mode signs for.
const shortLife = 7 * 24 * time.Hour

// NewPCAIssuer returns an issuer that has asked nobody yet, or says what of the
// configuration cannot work.
func NewPCAIssuer(c PCAConfig) (*PCAIssuer, error) {
	c.Patience = cmp.Or(c.Patience, 15*time.Second)
	c.Poll = cmp.Or(c.Poll, 300*time.Millisecond)
	c.Lifetime = cmp.Or(c.Lifetime, 10*time.Minute)
	if len(c.CAs) == 0 || c.Notes == nil || c.Now == nil {
		return nil, errors.New("issuer acm-pca: CAs, Notes and Now must be set")
	}
	if c.MaxDays < 0 {
		return nil, errors.New("issuer acm-pca: the longest life in days must not be negative")
	}
	p := &PCAIssuer{config: c}
	for _, one := range c.CAs {
		parsed, err := arn.Parse(one.ARN)
		if err != nil || parsed.Service != "acm-pca" || !strings.HasPrefix(parsed.Resource, "certificate-authority/") {
			return nil, fmt.Errorf("issuer acm-pca: %q is not the ARN of a CA of ACM PCA", one.ARN)
		}
		if one.Client == nil {
			return nil, fmt.Errorf("issuer acm-pca: no client for %s", one.ARN)
		}
		if p.byAlias(one.Alias) != nil || p.byARN(one.ARN) != nil {
			return nil, fmt.Errorf("issuer acm-pca: %s, or its alias, is listed twice", one.ARN)
		}
		ca := &pcaCA{PCA: one, registry: c.Registry}
		ca.facts = newCache(c.Lifetime, c.Now, ca.describe)
		p.cas = append(p.cas, ca)
	}
	return p, nil
}

// choose returns the CA that a device asks for, if it may. AWS IoT's CA comes
// first, as in the original, whose messages these are.
func (p *PCAIssuer) choose(asked *protocol.ACMPCAParameters) (*pcaCA, error) {
	if asked == nil {
		return p.cas[0], nil
	}
	if err := p.mayNameIoTCA(asked); err != nil {
		return nil, err
	}
	switch {
	case asked.PCAAlias != "":
		if ca := p.byAlias(asked.PCAAlias); ca != nil {
			return ca, nil
		}
		return nil, &vending.Error{Reason: protocol.InvalidPCAAlias}
	case asked.PCAARN == "":
		return nil, &vending.Error{Reason: protocol.NoPCA}
	}
	if ca := p.byARN(asked.PCAARN); ca != nil {
		return ca, nil
	}
	return nil, &vending.Error{Reason: protocol.CANotAllowed, Detail: "acmpcaCaArn is not on the list of CAs"}
}

func (p *PCAIssuer) mayNameIoTCA(asked *protocol.ACMPCAParameters) error {
	listed := func(is func(IoTCA) bool) bool { return slices.ContainsFunc(p.config.IoTCAs, is) }
	switch {
	case asked.IoTCAAlias != "":
		if !listed(func(c IoTCA) bool { return c.Alias != "" && strings.EqualFold(c.Alias, asked.IoTCAAlias) }) {
			return &vending.Error{Reason: protocol.InvalidIoTCAAlias}
		}
	case asked.IoTCAID == "":
		return &vending.Error{Reason: protocol.NoIoTCA}
	case !listed(func(c IoTCA) bool { return string(c.ID) == asked.IoTCAID }):
		return &vending.Error{Reason: protocol.CANotAllowed, Detail: "awsiotCaID is not on the list of CAs"}
	}
	return nil
}

func (p *PCAIssuer) byAlias(alias string) *pcaCA {
	return p.find(func(ca *pcaCA) bool { return alias != "" && strings.EqualFold(ca.Alias, alias) })
}

func (p *PCAIssuer) byARN(arn string) *pcaCA {
	return p.find(func(ca *pcaCA) bool { return ca.ARN == arn })
}

func (p *PCAIssuer) find(is func(*pcaCA) bool) *pcaCA {
	if i := slices.IndexFunc(p.cas, is); i >= 0 {
		return p.cas[i]
	}
	return nil
}

// Signs is as vending.Ports has it, for the CA of devices that ask for none.
func (p *PCAIssuer) Signs(ctx context.Context) (until time.Time, err error) {
	facts, err := p.cas[0].facts.get(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return facts.until(p.config.Now()), nil
}

func (f pcaFacts) until(now time.Time) time.Time {
	if end := now.Add(shortLife); f.shortLife && end.Before(f.notAfter) {
		return end
	}
	return f.notAfter
}

// Forget has the facts fetched anew: what was signed was refused.
func (p *PCAIssuer) Forget() {
	for _, ca := range p.cas {
		ca.facts.drop()
	}
}

// describe asks ACM PCA for the facts, or returns certificate.ErrNoCA.
func (ca *pcaCA) describe(ctx context.Context) (pcaFacts, error) {
	out, err := ca.Client.DescribeCertificateAuthority(ctx, &acmpca.DescribeCertificateAuthorityInput{CertificateAuthorityArn: &ca.ARN})
	if err != nil {
		return pcaFacts{}, refuse(certificate.ErrNoCA, fmt.Errorf("describe %s: %w", ca.ARN, err))
	}
	d := out.CertificateAuthority
	if d == nil || d.CertificateAuthorityConfiguration == nil || d.NotAfter == nil || d.Status != types.CertificateAuthorityStatusActive {
		status := types.CertificateAuthorityStatus("unknown")
		if d != nil {
			status = d.Status
		}
		return pcaFacts{}, fmt.Errorf("%w: %s is %s, and signs only while it is ACTIVE", certificate.ErrNoCA, ca.ARN, status)
	}
	facts := pcaFacts{
		notAfter:  *d.NotAfter,
		shortLife: d.UsageMode == types.CertificateAuthorityUsageModeShortLivedCertificate,
	}
	if facts.algorithm, err = ca.algorithm(d.CertificateAuthorityConfiguration.KeyAlgorithm); err != nil {
		return facts, err
	}
	return facts, ca.isRegistered(ctx)
}

// isRegistered refuses a CA that is in AWS IoT and not ACTIVE there, before
// anything is paid for. What cannot be asked is not held against it: AWS IoT
// says it when the certificate is registered.
func (ca *pcaCA) isRegistered(ctx context.Context) error {
	if ca.registry == nil {
		return nil
	}
	out, err := ca.Client.GetCertificateAuthorityCertificate(ctx, &acmpca.GetCertificateAuthorityCertificateInput{CertificateAuthorityArn: &ca.ARN})
	if err != nil || out.Certificate == nil {
		return nil
	}
	chain, err := readChain(*out.Certificate)
	if err != nil {
		return fmt.Errorf("%w: the certificate of %s: %w", certificate.ErrNoCA, ca.ARN, err)
	}
	id := certificate.IDOf(chain[0].Raw)
	described, err := ca.registry.DescribeCACertificate(ctx, &iot.DescribeCACertificateInput{CertificateId: new(string(id))})
	if err != nil || described.CertificateDescription == nil || described.CertificateDescription.Status == iottypes.CACertificateStatusActive {
		return nil
	}
	return fmt.Errorf("%w: CA certificate %s is %s in AWS IoT: activate it", certificate.ErrNoCA, id, described.CertificateDescription.Status)
}

// algorithms are those that AWS IoT takes, by the CA's key; the usual first.
var algorithms = map[types.KeyAlgorithm][]types.SigningAlgorithm{
	types.KeyAlgorithmRsa2048:      rsaAlgorithms,
	types.KeyAlgorithmRsa3072:      rsaAlgorithms,
	types.KeyAlgorithmRsa4096:      rsaAlgorithms,
	types.KeyAlgorithmEcPrime256v1: {types.SigningAlgorithmSha256withecdsa, types.SigningAlgorithmSha384withecdsa, types.SigningAlgorithmSha512withecdsa},
	types.KeyAlgorithmEcSecp384r1:  {types.SigningAlgorithmSha384withecdsa, types.SigningAlgorithmSha256withecdsa, types.SigningAlgorithmSha512withecdsa},
	types.KeyAlgorithmEcSecp521r1:  {types.SigningAlgorithmSha512withecdsa, types.SigningAlgorithmSha256withecdsa, types.SigningAlgorithmSha384withecdsa},
}

var rsaAlgorithms = []types.SigningAlgorithm{
	types.SigningAlgorithmSha256withrsa, types.SigningAlgorithmSha384withrsa, types.SigningAlgorithmSha512withrsa,
	types.SigningAlgorithmSha256withrsaPss, types.SigningAlgorithmSha384withrsaPss, types.SigningAlgorithmSha512withrsaPss,
}

// algorithm follows the CA's key, whatever the key in the CSR is.
func (ca *pcaCA) algorithm(key types.KeyAlgorithm) (types.SigningAlgorithm, error) {
	fit := algorithms[key]
	switch {
	case len(fit) == 0:
		return "", fmt.Errorf("%w: %s has a key %s, and AWS IoT takes nothing that one signs", certificate.ErrNoCA, ca.ARN, key)
	case ca.Algorithm == "":
		return fit[0], nil
	case !slices.Contains(fit, ca.Algorithm):
		return "", fmt.Errorf("%w: %s has a key %s, which cannot sign %s", certificate.ErrNoCA, ca.ARN, key, ca.Algorithm)
	}
	return ca.Algorithm, nil
}
