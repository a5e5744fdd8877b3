package aws

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/rotation"
)

// Somebody else makes the new certificate INACTIVE at AWS, of which the store
// does not hear. The device is left with the old one, so that must stay.
func TestSuccessorThatOthersHaveDeactivatedJustifiesNothing(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	c.grace = time.Hour
	c.serve()
	vended := c.turn()
	set := func(status types.CertificateStatus) {
		t.Helper()
		_, err := c.clients.IoT.UpdateCertificate(c.ctx, &iot.UpdateCertificateInput{CertificateId: new(string(vended)), NewStatus: status})
		c.must(err)
	}
	set(types.CertificateStatusInactive)
	c.clock.Advance(2 * time.Hour)
	c.wantKept("as INACTIVE")
	set(types.CertificateStatusActive)
	c.wantRetired()
}

// The first half of a deletion is done. The new certificate does not work for what
// the device does, and somebody makes the old one ACTIVE at AWS, where no request
// tells of it: it is not deleted, until it is INACTIVE there again or a person has
// undone the rotation.
func TestWhatOthersHaveActivatedIsNotDeleted(t *testing.T) {
	for name, undone := range map[string]bool{"undone": true, "INACTIVE again": false} {
		t.Run(name, func(t *testing.T) {
			c := newCourse(t, certificate.Delete, nil)
			set := func(status types.CertificateStatus) {
				t.Helper()
				_, err := c.clients.IoT.UpdateCertificate(c.ctx, &iot.UpdateCertificateInput{CertificateId: new(string(c.old)), NewStatus: status})
				c.must(err)
			}
			vended := c.turn()
			set(types.CertificateStatusActive)
			c.clock.Advance(30 * time.Minute)
			c.wantKept("rotation undo " + courseThing)
			if undone {
				_, err := c.closer.Undo(c.ctx, courseThing)
				c.must(err)
				c.seen(c.old)
				c.wantStatus(types.CertificateStatusActive, c.old)
				return
			}
			set(types.CertificateStatusInactive)
			c.quiet(vended)
			c.wantWhole(vended)
		})
	}
}

// swept returns what has become of the one retirement after a sweep.
func (c *course) swept() rotation.Retirement {
	c.t.Helper()
	_, err := c.closer.Sweep(c.ctx)
	c.must(err)
	all, err := c.world.Backend().Rotations.Retirements(c.ctx, rotation.Query{Device: courseThing})
	c.must(err)
	if len(all) != 1 {
		c.t.Fatalf("%d retirements", len(all))
	}
	return all[0]
}

func (c *course) wantKept(why string) {
	c.t.Helper()
	kept, is := c.swept(), c.statusAtAWS(c.old)
	if !kept.Done.IsZero() || !strings.Contains(kept.Why, why) || is != types.CertificateStatusActive {
		c.t.Fatalf("retirement %+v, and the old one is %s", kept, is)
	}
}

func (c *course) wantRetired() {
	c.t.Helper()
	if done, is := c.swept(), c.statusAtAWS(c.old); done.Done.IsZero() || is != types.CertificateStatusInactive {
		c.t.Errorf("retirement %+v, and the old one is %s", done, is)
	}
}

// Somebody else detaches the new certificate, for the old one that he meant: with
// a policy that goes by the thing the device cannot connect with it.
func TestSuccessorThatOthersHaveDetachedJustifiesNothing(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil)
	c.grace = time.Hour
	c.serve()
	target := c.world.inventory.names.certificate(c.turn())
	_, err := c.clients.IoT.DetachThingPrincipal(c.ctx, &iot.DetachThingPrincipalInput{ThingName: new(courseThing), Principal: &target})
	c.must(err)
	c.clock.Advance(2 * time.Hour)
	c.wantKept("attach it there")
	_, err = c.clients.IoT.AttachThingPrincipal(c.ctx, &iot.AttachThingPrincipalInput{ThingName: new(courseThing), Principal: &target})
	c.must(err)
	c.wantRetired()
}

// Somebody has moved the policies of the new certificate to another, and the store
// has heard of that or not: the new one cannot connect any more.
func TestSuccessorWithoutItsPoliciesJustifiesNothing(t *testing.T) {
	for name, heard := range map[string]bool{"heard": true, "not heard": false} {
		t.Run(name, func(t *testing.T) {
			c := newCourse(t, certificate.Deactivate, nil)
			c.grace = time.Hour
			c.serve()
			vended := c.turn()
			target := c.world.inventory.names.certificate(vended)
			_, err := c.clients.IoT.DetachPolicy(c.ctx, &iot.DetachPolicyInput{PolicyName: new(oldPolicy), Target: &target})
			c.must(err)
			c.clock.Advance(2 * time.Hour)
			if heard {
				c.must(c.world.inventory.hear(c.ctx, vended))
			}
			c.wantKept("no policy attached to certificate " + string(vended))
			_, err = c.clients.IoT.AttachPolicy(c.ctx, &iot.AttachPolicyInput{PolicyName: new(oldPolicy), Target: &target})
			c.must(err)
			c.wantRetired()
		})
	}
}

// AWS said that a thing has its certificate for itself, and somebody moves it to
// another thing after that. Or the thing has one for itself, and this one not.
func TestWhatIsNoThingsAloneIsKept(t *testing.T) {
	for name, moved := range map[string]bool{"moved": true, "shared": false} {
		t.Run(name, func(t *testing.T) {
			fake, clock := newFake(), noon()
			w := fake.open(t, clock)
			id := fake.hold(t, w, clock, "a")
			arn := fakeARN + "cert/" + string(id)
			if !moved {
				fake.hold(t, w, clock, "a") // which it has for itself
				fake.principals["b"], fake.attachments = []string{arn}, map[string]string{arn: "NON_EXCLUSIVE_THING"}
			}
			if _, err := w.inventory.Held(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if moved {
				clock.Advance(10 * time.Minute)
				fake.principals["a"], fake.principals["b"] = nil, []string{arn}
			}
			err := w.inventory.Retire(t.Context(), certificate.Removal{
				Device: "a", Certificate: id, Mode: certificate.Deactivate, Allowed: func([]certificate.Holding) error { return nil },
			})
			if is := fake.statusOf(string(id)); err != nil || is != "ACTIVE" {
				t.Errorf("%v, and what another thing has is %s", err, is)
			}
		})
	}
}

// A certificate that was taken from another thing, and that somebody has attached
// to it again, is what that thing may work with, although the store does not have
// it as its own. So it is with one whose other thing is not known here while AWS is
// being told about it.
func TestWhatAnotherThingHasIsKept(t *testing.T) {
	for name, before := range map[string]func(*course) error{
		"again": func(c *course) error {
			if _, err := c.world.inventory.Held(c.ctx, otherThing); err != nil {
				return err
			}
			return c.world.inventory.rows.Retire(c.ctx, certificate.Removal{
				Device: otherThing, Certificate: c.old, Mode: certificate.Deactivate,
				Allowed: func([]certificate.Holding) error { return nil },
			})
		},
		"marked": func(c *course) error {
			return c.world.inventory.marks.Begin(c.ctx, store.Mark{Certificate: c.old, Device: courseThing})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCourse(t, certificate.Deactivate, nil)
			target := c.world.inventory.names.certificate(c.old)
			_, err := c.clients.IoT.CreateThing(c.ctx, &iot.CreateThingInput{ThingName: new(otherThing)})
			c.must(err)
			_, err = c.clients.IoT.AttachThingPrincipal(c.ctx, &iot.AttachThingPrincipalInput{ThingName: new(otherThing), Principal: &target})
			c.must(err)
			_, err = c.world.inventory.Held(c.ctx, courseThing)
			c.must(err)
			c.must(before(c))
			c.turn() // without a grace: the ack would take it away
			c.clock.Advance(2 * time.Minute)
			c.wantKept("attached to thing " + otherThing)
			_, err = c.clients.IoT.DetachThingPrincipal(c.ctx, &iot.DetachThingPrincipalInput{ThingName: new(otherThing), Principal: &target})
			c.must(err)
			c.wantRetired()
		})
	}
}
