package aws

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
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
	status := func() types.CertificateStatus {
		t.Helper()
		out, err := c.clients.IoT.DescribeCertificate(c.ctx, &iot.DescribeCertificateInput{CertificateId: new(string(c.old))})
		c.must(err)
		return out.CertificateDescription.Status
	}
	sweep := func() rotation.Retirement {
		t.Helper()
		_, err := c.closer.Sweep(c.ctx)
		c.must(err)
		all, err := c.world.Backend().Rotations.Retirements(c.ctx, rotation.Query{Device: courseThing})
		c.must(err)
		if len(all) != 1 {
			t.Fatalf("%d retirements", len(all))
		}
		return all[0]
	}
	set(types.CertificateStatusInactive)
	c.clock.Advance(2 * time.Hour)
	if kept := sweep(); !kept.Done.IsZero() || !strings.Contains(kept.Why, "as INACTIVE") || status() != types.CertificateStatusActive {
		t.Fatalf("retirement %+v, and the old one is %s", kept, status())
	}
	set(types.CertificateStatusActive)
	if done := sweep(); done.Done.IsZero() || status() != types.CertificateStatusInactive {
		t.Errorf("retirement %+v, and the old one is %s", done, status())
	}
}
