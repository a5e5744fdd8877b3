package aws

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/protocol"
)

// A request is cut off when its certificate is issued and AWS does not attach it;
// what it had registered is made INACTIVE. The device comes again with its key when
// the rotation is stale, and what it gets is what AWS lets connect: it may have no
// room for two.
func TestIssuedAndSleptOn(t *testing.T) {
	f := &refusal{method: "PUT", path: "/principals", status: 503, code: "ServiceUnavailableException", times: 1000}
	c := refusedCourse(t, f, func(config *Config) { config.ActsOutside = true })
	if got := c.once(c.old, protocol.Get, c.csr()); got.accepted() {
		t.Fatalf("answered %+v", got)
	}
	f.times = 0
	c.clock.Advance(5 * time.Minute)
	c.must(c.world.inventory.Settle(c.ctx))
	c.clock.Advance(721 * time.Hour)
	_, err := c.closer.Sweep(c.ctx)
	c.must(err)
	vended := c.ask(c.old, protocol.Get, c.csr()).CertificateID
	c.wantStatus(types.CertificateStatusActive, vended)
	c.ask(vended, protocol.Ack, "{}")
	c.quiet(vended)
	c.wantWhole(vended)
}
