package aws

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// rememberingIssuer is one that answers the same order of a rotation with the same
// certificate, as that by ACM PCA does.
type rememberingIssuer struct {
	vending.Issuer
	made map[int64]certificate.Certificate
}

func (i rememberingIssuer) Issue(ctx context.Context, order certificate.Order) (certificate.Certificate, error) {
	if c, made := i.made[order.Rotation]; made {
		return c, nil
	}
	c, err := i.Issuer.Issue(ctx, order)
	if err == nil {
		i.made[order.Rotation] = c
	}
	return c, err
}

// A certificate that was signed, and that AWS never heard of, is not gone: its
// device is vended it when it asks again, and it is ACTIVE then.
func TestWhatAWSNeverHeardOfIsNotGone(t *testing.T) {
	for name, looks := range map[string]func(*course) error{
		"by a look at the thing": func(c *course) error { _, err := c.world.syncer.Look(c.ctx, courseThing); return err },
		"after a restore":        func(c *course) error { c.restore(c.backUp(), true); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			down := true
			c := newCourse(t, certificate.Deactivate, func(next http.RoundTripper) http.RoundTripper {
				return transport(func(r *http.Request) (*http.Response, error) {
					if down && strings.HasPrefix(r.URL.Path, "/certificate/register") {
						return answer(r, http.StatusServiceUnavailable, "ServiceUnavailableException"), nil
					}
					return next.RoundTrip(r)
				})
			}, func(config *Config) {
				issuer, err := config.Issuer(nil)
				config.Issuer = given(rememberingIssuer{issuer, map[int64]certificate.Certificate{}})
				config.ActsOutside = true
				if err != nil {
					t.Fatal(err)
				}
			})
			if c.once(c.old, protocol.Get, c.csr()).accepted() {
				t.Fatal("it is vended a certificate that AWS did not take")
			}
			c.must(errors.Join(c.world.inventory.Settle(c.ctx), looks(c)))
			down = false
			vended := c.ask(c.old, protocol.Get, c.csr()).CertificateID
			if is := c.statusAtAWS(vended); is != types.CertificateStatusActive {
				t.Errorf("the device is vended a certificate that is %s", is)
			}
			held, err := c.world.store.Certificates().Held(c.ctx, courseThing)
			c.must(err)
			if is, _ := certificate.Find(held, vended); is.Standing != certificate.Active {
				t.Errorf("here it is %s", is.Standing)
			}
		})
	}
}
