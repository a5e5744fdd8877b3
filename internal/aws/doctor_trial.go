package aws

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
)

// Trial is a thing that a rotation is tried on, and thrown away then. Everything
// of it is named after the thing, or attached to it.
type Trial struct {
	// Thing is its name, which begins as no other does.
	Thing string
	// Certificate and Key are what it connects with at first, PEM. AWS IoT has
	// made the key.
	Certificate, Key []byte

	doctor *Doctor
	iot    *iot.Client
	first  certificate.ID
	made   []certificate.ID
	doubt  bool // whether AWS has made a certificate that it did not tell of

	pause   time.Duration // between two looks
	persist time.Duration // for how long one thing is tried to be taken away
}

// NewTrial makes nothing yet. The doctor must have found credentials.
func (d *Doctor) NewTrial() *Trial {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails, by its contract
	return &Trial{Thing: trialPrefix + hex.EncodeToString(b), doctor: d, iot: d.config.Clients.IoT, pause: 500 * time.Millisecond, persist: 45 * time.Second}
}

// Make makes the thing, with a certificate that may what devices may. What it
// has made when it fails, Clean finds.
func (t *Trial) Make(ctx context.Context) error {
	policy := t.doctor.config.Scope.DevicePolicy().text()
	_, err := t.iot.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: &t.Thing, PolicyDocument: &policy})
	if err != nil {
		return fmt.Errorf("create policy %s: %w", t.Thing, err)
	}
	if _, err := t.iot.CreateThing(ctx, &iot.CreateThingInput{ThingName: &t.Thing}); err != nil {
		return fmt.Errorf("create thing %s: %w", t.Thing, err)
	}
	made, err := t.createCertificate(ctx)
	if err != nil {
		return fmt.Errorf("create a certificate for thing %s: %w", t.Thing, err)
	}
	t.first = certificate.ID(deref(made.CertificateId))
	t.made = append(t.made, t.first)
	t.Certificate = []byte(deref(made.CertificatePem))
	if made.KeyPair != nil {
		t.Key = []byte(deref(made.KeyPair.PrivateKey))
	}
	if _, err := t.iot.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: &t.Thing, Target: made.CertificateArn}); err != nil {
		return fmt.Errorf("attach policy %s: %w", t.Thing, err)
	}
	if _, err := t.iot.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: &t.Thing, Principal: made.CertificateArn}); err != nil {
		return fmt.Errorf("attach a certificate to thing %s: %w", t.Thing, err)
	}
	return nil
}

// makeTime is how long AWS may take to make a certificate.
const makeTime = 30 * time.Second

// createCertificate is not interrupted: AWS would have made one that nobody
// knows of.
func (t *Trial) createCertificate(ctx context.Context) (*iot.CreateKeysAndCertificateOutput, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeTime)
	defer cancel()
	out, err := t.iot.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true})
	t.doubt = isPassing(err)
	return out, err
}

// Rotated says how AWS has the thing's certificates, once it has acked over a
// new one. gone says that the first one is to stop connecting at once.
func (t *Trial) Rotated(ctx context.Context, next certificate.ID, gone bool) Finding {
	t.made = append(t.made, next)
	seen, err := t.doctor.inventory().attached(ctx, registry.DeviceID(t.Thing))
	if err != nil {
		return fault(err)
	}
	is, err := t.status(ctx, next)
	if err != nil {
		return fault(err)
	}
	policies, err := t.doctor.inventory().policies(ctx, next)
	if err != nil {
		return fault(err)
	}
	switch {
	case is != types.CertificateStatusActive || !slices.Contains(seen.certificates, next):
		return bad("see the daemon's log", "the new certificate is %s, attached: %t", is, slices.Contains(seen.certificates, next))
	case len(policies) == 0:
		return bad("see policy in the configuration", "the new certificate has no policy: the device can do nothing with it")
	}
	was, err := t.status(ctx, t.first)
	switch {
	case err != nil && !isNotFound(err):
		return fault(err)
	case err != nil:
		was = "deleted"
	case gone && was == types.CertificateStatusActive:
		return bad("certvendor rotation list --stuck", "the old certificate is still ACTIVE")
	}
	return good("the new certificate is ACTIVE, attached, and has %s; the old one is %s", strings.Join(policies, ", "), was)
}

func (t *Trial) status(ctx context.Context, id certificate.ID) (types.CertificateStatus, error) {
	out, err := t.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: new(string(id))})
	if err != nil {
		return "", fmt.Errorf("describe certificate %s: %w", id, err)
	}
	return out.CertificateDescription.Status, nil
}

// Execution is what became of the rotation job on the thing.
type Execution struct {
	Job    string
	Number int64
	Status string
}

// Await waits until an execution of the rotation job is as it should be, and
// returns it. False if it never was before ctx ended.
func (t *Trial) Await(ctx context.Context, is func(Execution) bool) (Execution, bool) {
	for {
		if e, err := t.execution(ctx); err == nil && e.Job != "" && is(e) {
			return e, true
		}
		if sleep(ctx, t.pause); ctx.Err() != nil {
			return Execution{}, false
		}
	}
}

// execution returns the newest one of the rotation job; none has no job.
func (t *Trial) execution(ctx context.Context) (newest Execution, err error) {
	s := t.doctor.config.Scope
	own := jobs.New(s.Group, s.Topics).ID
	pages := iot.NewListJobExecutionsForThingPaginator(t.iot, &iot.ListJobExecutionsForThingInput{ThingName: &t.Thing})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return newest, fmt.Errorf("list the jobs of thing %s: %w", t.Thing, err)
		}
		for _, e := range page.ExecutionSummaries {
			if id := deref(e.JobId); e.JobExecutionSummary == nil || id != own && !strings.HasPrefix(id, own+"-") {
				continue
			}
			number := int64(0)
			if e.JobExecutionSummary.ExecutionNumber != nil {
				number = *e.JobExecutionSummary.ExecutionNumber
			}
			if newest.Job == "" || number > newest.Number {
				newest = Execution{deref(e.JobId), number, string(e.JobExecutionSummary.Status)}
			}
		}
	}
	return newest, nil
}

// DefaultStatus registers a certificate that nobody uses without saying how it
// shall stand, and says how it does; AWS documents it nowhere.
func (t *Trial) DefaultStatus(ctx context.Context) Finding {
	c, err := selfSigned(t.Thing, t.doctor.config.Now())
	if err != nil {
		return bad("", "%v", err)
	}
	id := certificate.IDOf(c.Raw)
	t.made = append(t.made, id)
	pem := encode(c.Raw)
	_, err = t.iot.RegisterCertificateWithoutCA(ctx, &iot.RegisterCertificateWithoutCAInput{CertificatePem: &pem})
	if err != nil {
		return fault(err)
	}
	is, err := t.status(ctx, id)
	switch {
	case err != nil:
		return fault(err)
	case is == "":
		return unknown("", "AWS says no status")
	}
	return good("%s; certvendor always says which", is)
}

// selfSigned makes a certificate with a key that nobody keeps.
func selfSigned(name string, now time.Time) (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := issuing.Serial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(proofLife),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// errNoTrial says that there is nothing to try with.
var errNoTrial = errors.New("the Asset Library does not know a thing that is made for a trial")

// MayTry says why no rotation can be tried with this configuration, or nil.
func (d *Doctor) MayTry() error {
	if d.config.Scope.Registry == AssetsSource {
		return errNoTrial
	}
	return nil
}
