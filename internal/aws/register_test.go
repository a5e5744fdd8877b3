package aws

import (
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
)

const (
	otherThing   = "machine-7"  // works with the certificate
	newThing     = "thing-9"    // a person takes the certificate in with
	givenPolicy  = "given"      // configured
	wrongPolicy  = "misspelt"   // configured, and not there
	workedPolicy = "old-policy" // of the certificate that works
)

// works registers a certificate at AWS, of which certvendor has not heard, and with
// which another thing may be at work.
func (c *course) works(status types.CertificateStatus) certificate.Certificate {
	c.t.Helper()
	made, err := c.world.issuer.Issue(c.ctx, certificate.Order{
		Device: otherThing, Key: backendtest.NewKey().Public(), RawSubject: emptyName,
		NotBefore: c.clock.Now().Add(-time.Hour), NotAfter: c.clock.Now().Add(8760 * time.Hour),
	})
	c.must(err)
	for _, thing := range []string{otherThing, newThing} {
		_, err := c.clients.IoT.CreateThing(c.ctx, &iot.CreateThingInput{ThingName: &thing})
		c.must(err)
	}
	_, err = c.clients.IoT.RegisterCertificateWithoutCA(c.ctx, &iot.RegisterCertificateWithoutCAInput{
		CertificatePem: new(made.PEM()), Status: status,
	})
	c.must(err)
	target := c.world.inventory.names.certificate(made.ID)
	_, err = c.clients.IoT.AttachPolicy(c.ctx, &iot.AttachPolicyInput{PolicyName: new(workedPolicy), Target: &target})
	c.must(err)
	_, err = c.clients.IoT.AttachThingPrincipal(c.ctx, &iot.AttachThingPrincipalInput{ThingName: new(otherThing), Principal: &target})
	c.must(err)
	made.Kind, made.Standing, made.Policies = certificate.Adopted, certificate.Active, []string{givenPolicy}
	return made
}

// wantAtWork asks AWS whether a certificate stands so, and whether the other
// thing and its policy have it still, after Settle was there.
func (c *course) wantAtWork(id certificate.ID, status types.CertificateStatus) {
	c.t.Helper()
	_ = c.world.inventory.Settle(c.ctx) // what fails is tried again
	c.must(c.world.inventory.Settle(c.ctx))
	if is := c.statusAtAWS(id); is != status {
		c.t.Errorf("the certificate is %s, and was %s", is, status)
	}
	things, err := c.world.inventory.thingsOf(c.ctx, id)
	c.must(err)
	policies, err := c.world.inventory.policies(c.ctx, id)
	c.must(err)
	if !slices.Contains(things, otherThing) || !slices.Contains(policies, workedPolicy) {
		c.t.Errorf("it has the things %v and the policies %v", things, policies)
	}
}

// A person takes a certificate in with which a thing of another name works. Each
// call fails in turn and in each way: the thing works on, and the same again
// takes it in.
func TestTakingInTakesNothingAway(t *testing.T) {
	for _, status := range []types.CertificateStatus{types.CertificateStatusActive, types.CertificateStatusInactive} {
		for _, way := range ways {
			t.Run(string(status)+"/"+way.name, func(t *testing.T) {
				f := &faulty{fail: way.fail}
				c := newCourse(t, certificate.Deactivate, func(next http.RoundTripper) http.RoundTripper {
					f.next = next
					return f
				})
				failed := 0
				for n := 1; ; n++ {
					one := c.works(status)
					f.mu.Lock()
					f.at, f.left, f.failed = len(f.calls)+n, 0, ""
					f.mu.Unlock()
					one.Policies = nil
					err := c.world.inventory.Register(c.ctx, newThing, one)
					if f.failed == "" {
						c.must(err)
						break
					}
					if err != nil {
						failed++
						c.wantAtWork(one.ID, status)
						c.must(c.world.inventory.Register(c.ctx, newThing, one))
					}
					c.wantAtWork(one.ID, types.CertificateStatusActive)
				}
				if failed < 3 {
					t.Errorf("%d calls have failed: nothing is tested", failed)
				}
			})
		}
	}
}

// What fails for good takes nothing away either: a policy that is configured and
// not there, for a certificate that has none, or that another device holds.
func TestTakingInWithAPolicyThatIsNotThere(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	one := c.works(types.CertificateStatusActive)
	one.Policies = []string{wrongPolicy}
	c.must(c.world.inventory.Register(c.ctx, otherThing, one)) // which keeps its own
	if err := c.world.inventory.Register(c.ctx, newThing, one); !errors.Is(err, certificate.ErrNoPolicy) {
		t.Errorf("for a second device: %v", err)
	}
	c.wantAtWork(one.ID, types.CertificateStatusActive)

	bare := c.works(types.CertificateStatusActive)
	bare.Policies = []string{wrongPolicy}
	_, err := c.clients.IoT.DetachPolicy(c.ctx, &iot.DetachPolicyInput{
		PolicyName: new(workedPolicy), Target: new(c.world.inventory.names.certificate(bare.ID)),
	})
	c.must(err)
	if err := c.world.inventory.Register(c.ctx, newThing, bare); !errors.Is(err, certificate.ErrNoPolicy) {
		t.Errorf("without policies: %v", err)
	}
	c.must(c.world.inventory.Settle(c.ctx))
	if is := c.statusAtAWS(bare.ID); is != types.CertificateStatusActive {
		t.Errorf("the certificate that works is %s", is)
	}
}

// A package may be put whose certificate works already, and nobody brings back
// what AWS has REVOKED.
func TestTakingInAsAWSHasIt(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	packed := c.works(types.CertificateStatusActive)
	packed.Kind, packed.Standing = certificate.Packaged, certificate.Inactive
	c.must(c.world.inventory.Register(c.ctx, newThing, packed))
	c.wantAtWork(packed.ID, types.CertificateStatusActive)
	held, err := c.world.inventory.Held(c.ctx, newThing)
	c.must(err)
	if h, _ := certificate.Find(held, packed.ID); h.Standing != certificate.Active || !slices.Equal(h.Policies, []string{workedPolicy}) {
		t.Errorf("here it is %s, with the policies %v", h.Standing, h.Policies)
	}

	revoked := c.works(types.CertificateStatusRevoked)
	if err := c.world.inventory.Register(c.ctx, newThing, revoked); !errors.Is(err, certificate.ErrRevoked) {
		t.Errorf("REVOKED at AWS: %v", err)
	}
	c.wantAtWork(revoked.ID, types.CertificateStatusRevoked)
}
