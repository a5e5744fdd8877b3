package aws

import (
	"errors"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

func (c *course) statusAtAWS(id certificate.ID) types.CertificateStatus {
	c.t.Helper()
	out, err := c.clients.IoT.DescribeCertificate(c.ctx, &iot.DescribeCertificateInput{CertificateId: new(string(id))})
	c.must(err)
	return out.CertificateDescription.Status
}

// issued brings a rotation, of which every intention is durable, to where its
// certificate is registered and not vended yet.
func (c *course) issued() rotation.Rotation {
	c.t.Helper()
	b, now := c.world.Backend(), c.clock.Now()
	r, err := b.Journal.Open(c.ctx, rotation.Rotation{
		Device: courseThing, Number: 1, State: rotation.Intended, Over: c.old, Opened: now, Profile: "default",
		Lease: rotation.Lease{Instance: "one", Until: now.Add(rotation.LeaseTime)},
	}, nil)
	c.must(err)
	made, err := b.Issuer.Issue(c.ctx, certificate.Order{
		Device: courseThing, Key: backendtest.NewKey().Public(), RawSubject: emptyName, NotBefore: now, NotAfter: now.AddDate(1, 0, 0),
	})
	c.must(err)
	made.Standing, made.Kind = certificate.Active, certificate.Rotated
	r.State, r.Key, r.Certificate = rotation.Issued, made.Key, made.ID
	r, err = b.Journal.Advance(c.ctx, rotation.Change{Rotation: r, Certificate: &made})
	c.must(err)
	c.must(b.Inventory.Register(c.ctx, courseThing, made))
	return r
}

// What a request is about to vend is left as it is, and is taken for cut off
// once nobody is at work on it.
func TestSettleLeavesWhatARequestIsAtWorkOn(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil, func(config *Config) { config.ActsOutside = true })
	_, err := c.world.registry.Device(c.ctx, courseThing)
	c.must(err)
	r := c.issued()
	c.must(c.world.inventory.Settle(c.ctx))
	if is := c.statusAtAWS(r.Certificate); is != types.CertificateStatusActive {
		t.Fatalf("the certificate that is about to be vended is %s", is)
	}
	c.clock.Advance(2 * rotation.LeaseTime)
	c.must(c.world.inventory.Settle(c.ctx))
	if is := c.statusAtAWS(r.Certificate); is != types.CertificateStatusInactive {
		t.Errorf("the certificate of a request that was cut off is %s", is)
	}
}

// While Settle tells AWS of a certificate, a request for it comes again.
func TestNobodyIsAtWorkBesideSettle(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	i := c.world.inventory
	i.enterWork(c.old, true)
	_, err := i.begin(c.ctx, courseThing, c.old)
	if later := (*vending.Error)(nil); !errors.As(err, &later) || later.Reason != "TRY_AGAIN_LATER" {
		t.Fatalf("beside Settle: %v", err)
	}
	c.must(i.end(c.ctx, c.old, false))
	end, err := i.begin(c.ctx, courseThing, c.old)
	c.must(err)
	if i.enterWork(c.old, true) {
		t.Error("Settle is at work beside it")
	}
	c.must(end(true))
}

// AWS was not told that a certificate is retired; that it may not be retired any
// more does not make that forgotten.
func TestARefusalForgetsNothing(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	i := c.world.inventory
	_, err := i.Held(c.ctx, courseThing)
	c.must(err)
	end, err := i.begin(c.ctx, courseThing, c.old)
	c.must(err)
	c.must(end(false)) // as when AWS did not answer
	kept := rotation.Kept{Why: "for this test"}
	err = i.Retire(c.ctx, certificate.Removal{
		Device: courseThing, Certificate: c.old, Mode: certificate.Deactivate, Allowed: func([]certificate.Holding) error { return kept },
	})
	if !errors.Is(err, kept) {
		t.Fatal(err)
	}
	if marked, err := i.marks.Has(c.ctx, c.old); err != nil || !marked {
		t.Errorf("marked: %t, %v", marked, err)
	}
}

// Between what was recorded and what AWS was told, somebody has given the
// certificate to another thing, which may work with it.
func TestSettleLeavesWhatAnotherThingHas(t *testing.T) {
	for _, mode := range []certificate.Mode{certificate.Deactivate, certificate.Delete} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			c := newCourse(t, mode, nil)
			i := c.world.inventory
			_, err := i.Held(c.ctx, courseThing)
			c.must(err)
			end, err := i.begin(c.ctx, courseThing, c.old)
			c.must(err)
			c.must(i.rows.Retire(c.ctx, certificate.Removal{
				Device: courseThing, Certificate: c.old, Mode: mode, Allowed: func([]certificate.Holding) error { return nil },
			}))
			c.must(end(false)) // as when AWS does not answer
			target := i.names.certificate(c.old)
			_, err = c.clients.IoT.CreateThing(c.ctx, &iot.CreateThingInput{ThingName: new(otherThing)})
			c.must(err)
			_, err = c.clients.IoT.AttachThingPrincipal(c.ctx, &iot.AttachThingPrincipalInput{ThingName: new(otherThing), Principal: &target})
			c.must(err)
			if kept := (rotation.Kept{}); !errors.As(i.Settle(c.ctx), &kept) || !strings.Contains(kept.Why, otherThing) {
				t.Errorf("it does not say who has it: %q", kept.Why)
			}
			if is := c.statusAtAWS(c.old); is != types.CertificateStatusActive {
				t.Fatalf("what another thing has is %s", is)
			}
			_, err = c.clients.IoT.DetachThingPrincipal(c.ctx, &iot.DetachThingPrincipalInput{ThingName: new(otherThing), Principal: &target})
			c.must(err)
			c.must(i.Settle(c.ctx))
			if _, active := c.atAWS(); active != 0 {
				t.Error("when nobody else has it, it stays ACTIVE")
			}
		})
	}
}
