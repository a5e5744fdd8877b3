package aws

import (
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// Somebody else has made the new certificate INACTIVE, or has deleted it: a person
// who revokes the old one is told that it is the device's last.
func TestRevokingTheLastThatAWSLetsConnect(t *testing.T) {
	for name, deleted := range map[string]bool{"inactive": false, "deleted": true} {
		t.Run(name, func(t *testing.T) {
			c := newCourse(t, certificate.Keep, nil)
			vended := c.turn()
			c.clock.Advance(time.Hour)
			set := func(status types.CertificateStatus) {
				t.Helper()
				_, err := c.clients.IoT.UpdateCertificate(c.ctx, &iot.UpdateCertificateInput{CertificateId: new(string(vended)), NewStatus: status})
				c.must(err)
			}
			revoke := func(brick ...string) error {
				asked := rotation.Revoking{Certificate: c.old, Reason: 1}
				if len(brick) > 0 {
					asked.Brick = append(asked.Brick, courseThing)
				}
				return c.closer.Revoke(c.ctx, asked)
			}
			set(types.CertificateStatusInactive)
			if deleted {
				c.must(c.world.inventory.detach(c.ctx, courseThing, vended))
				c.must(c.world.inventory.detachPolicies(c.ctx, vended))
				_, err := c.clients.IoT.DeleteCertificate(c.ctx, &iot.DeleteCertificateInput{CertificateId: new(string(vended))})
				c.must(err)
			}
			if err := revoke(); !errors.As(err, &rotation.Refused{}) {
				t.Fatalf("revoked: %v", err)
			}
			if is := c.statusAtAWS(c.old); is != types.CertificateStatusActive {
				t.Fatalf("the device's last certificate is %s", is)
			}
			c.must(revoke("brick"))
			if is := c.statusAtAWS(c.old); is != types.CertificateStatusRevoked {
				t.Errorf("it was named, and is %s", is)
			}
		})
	}
}
