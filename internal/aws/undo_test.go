package aws

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// revokedAtAWS makes a certificate REVOKED as somebody at the console does.
func (c *course) revokedAtAWS(id certificate.ID) {
	c.t.Helper()
	_, err := c.clients.IoT.UpdateCertificate(c.ctx, &iot.UpdateCertificateInput{
		CertificateId: new(string(id)), NewStatus: types.CertificateStatusRevoked,
	})
	c.must(err)
}

// replacesTwo has the device rotate over two certificates, and returns the other
// one beside the old one.
func replacesTwo(t *testing.T, f *refusal) (*course, certificate.ID) {
	t.Helper()
	c := refusedCourse(t, f)
	c.retire = rotation.All
	c.serve()
	made := c.made(courseThing, certificate.First)
	_, err := c.world.registry.Device(c.ctx, courseThing)
	c.must(err)
	c.must(c.world.inventory.Register(c.ctx, courseThing, made))
	c.rotate()
	c.wantStatus(types.CertificateStatusInactive, c.old, made.ID)
	return c, made.ID
}

func (c *course) wantStatus(want types.CertificateStatus, ids ...certificate.ID) {
	c.t.Helper()
	for _, id := range ids {
		if is := c.statusAtAWS(id); is != want {
			c.t.Errorf("certificate %.8s is %s, want %s", id, is, want)
		}
	}
}

// What somebody has REVOKED at AWS keeps nothing else from coming back: a person
// who undoes a rotation that replaced two is told that one of them is lost.
func TestUndoBesideOneThatIsRevokedAtAWS(t *testing.T) {
	c, other := replacesTwo(t, &refusal{})
	c.revokedAtAWS(other)
	undone, err := c.closer.Undo(c.ctx, courseThing)
	c.must(err)
	if !slices.Equal(undone.Back, []certificate.ID{c.old}) || len(undone.Lost) != 1 || undone.Lost[0].Certificate != other ||
		!strings.Contains(undone.Lost[0].Why, "revoked or deleted by somebody else") {
		t.Errorf("undone %+v", undone)
	}
	if again, err := c.closer.Undo(c.ctx, courseThing); err != nil || !again.Already {
		t.Errorf("undone again: %+v, %v", again, err)
	}
	c.must(c.world.inventory.Settle(c.ctx))
	c.wantStatus(types.CertificateStatusActive, c.old)
	c.wantStatus(types.CertificateStatusRevoked, other)
}

// An undo that AWS cuts off in the middle leaves AWS as the store has it, and may
// be repeated.
func TestUndoThatIsCutOff(t *testing.T) {
	f := &refusal{method: "PUT", status: 401, code: "UnauthorizedException"}
	c, other := replacesTwo(t, f)
	for _, id := range []certificate.ID{c.old, other} { // one of them is the second
		f.path, f.times = "/certificates/"+string(id), 1
		if undone, err := c.closer.Undo(c.ctx, courseThing); err == nil {
			t.Errorf("undone %+v", undone)
		}
		c.must(c.world.inventory.Settle(c.ctx))
		c.wantStatus(types.CertificateStatusInactive, c.old, other)
	}
	undone, err := c.closer.Undo(c.ctx, courseThing)
	c.must(err)
	if len(undone.Back) != 2 || len(undone.Lost) > 0 {
		t.Errorf("undone %+v", undone)
	}
	c.must(c.world.inventory.Settle(c.ctx))
	c.wantStatus(types.CertificateStatusActive, c.old, other)
}

// A person undoes a rotation while the sweep is telling AWS what it replaced: AWS
// hears of both in the wrong order, and has it in the end as the store has it.
func TestUndoWhileItIsRetired(t *testing.T) {
	come := func() {}
	c := newCourse(t, certificate.Deactivate, nil, beforeStatus(func() { come() }))
	c.grace = time.Hour
	c.serve()
	vended := c.turn()
	c.clock.Advance(2 * time.Hour)
	c.seen(vended)
	var back []certificate.ID
	come = func() {
		undone, err := c.closer.Undo(c.ctx, courseThing)
		c.must(err)
		back = undone.Back
	}
	_, err := c.closer.Sweep(c.ctx)
	c.must(err)
	if !slices.Equal(back, []certificate.ID{c.old}) {
		t.Fatalf("brought back %v", back)
	}
	come = func() {}
	c.must(c.world.inventory.Settle(c.ctx))
	c.wantStatus(types.CertificateStatusActive, c.old, vended)
	if marked, err := c.world.inventory.marks.Has(c.ctx, c.old); err != nil || marked {
		t.Errorf("still marked: %t, %v", marked, err)
	}
}

// What somebody has REVOKED at AWS stays so when it is retired after that, and
// when what was cut off is brought to an end: an undo does not make it ACTIVE.
func TestRetiringLeavesRevoked(t *testing.T) {
	for name, settle := range map[string]bool{"by the sweep": false, "by what brings cut-off work to an end": true} {
		t.Run(name, func(t *testing.T) {
			f := &refusal{method: "PUT", status: 401, code: "UnauthorizedException"}
			c := refusedCourse(t, f)
			c.grace = 48 * time.Hour
			c.serve()
			vended := c.turn()
			if !settle {
				c.revokedAtAWS(c.old)
			}
			c.clock.Advance(49 * time.Hour)
			if settle { // AWS is told of the retirement only after that
				f.path, f.times = "/certificates/"+string(c.old), 1
			}
			c.seen(vended)
			if _, err := c.closer.Sweep(c.ctx); (err != nil) != settle {
				t.Fatal(err)
			}
			if settle {
				c.revokedAtAWS(c.old)
				c.must(c.world.inventory.Settle(c.ctx))
				c.quiet(vended)
			}
			c.wantStatus(types.CertificateStatusRevoked, c.old)
			if undone, err := c.closer.Undo(c.ctx, courseThing); err == nil {
				t.Errorf("undone %+v", undone)
			}
			c.wantStatus(types.CertificateStatusRevoked, c.old)
		})
	}
}

// seen has the device heard of on a certificate.
func (c *course) seen(on certificate.ID) {
	c.t.Helper()
	c.must(c.world.inventory.Seen(c.ctx, certificate.Sighting{
		Device: courseThing, Certificate: on, Evidence: certificate.Connection, At: c.clock.Now(),
	}))
}
