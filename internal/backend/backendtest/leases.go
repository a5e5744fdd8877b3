package backendtest

import (
	"context"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// leaseScenarios have two processes serve one world.
func leaseScenarios() []scenario {
	return []scenario{
		{"case_95_another_instance_at_work_is_left_alone", otherInstance},
		{"lease_of_a_dead_instance_ends", deadInstance},
	}
}

// slowIssuer waits in the middle of the work until it is let go on.
type slowIssuer struct {
	vending.Issuer
	begun, goOn chan struct{}
}

func (i slowIssuer) Issue(ctx context.Context, o certificate.Order) (certificate.Certificate, error) {
	i.begun <- struct{}{}
	<-i.goOn
	return i.Issuer.Issue(ctx, o)
}

// atWork has another instance begin a get of the device, which goes on when
// the function that it returns is called.
func (d *Device) atWork(csr string) (other *instance, goOn func()) {
	r := d.rig
	slow := slowIssuer{r.world.Backend.Issuer, make(chan struct{}), make(chan struct{})}
	r.world.Backend.Issuer = slow
	other = r.instance("second")
	r.world.Backend.Issuer = slow.Issuer
	done := make(chan struct{})
	go func() {
		defer close(done)
		other.handler.Serve(r.ctx, vending.Message{
			Topic:   protocol.DefaultTopics().Request(string(d.ID), protocol.Get),
			Payload: protocol.Encode(map[string]string{"csr": csr}), Caller: d.caller(d.First, certificate.Connection),
		})
	}()
	<-slow.begun
	return other, func() {
		close(slow.goOn)
		<-done
	}
}

func otherInstance(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	key := NewKey()
	csr := CSR(key, "d")
	_, goOn := d.atWork(csr)
	d.GetCSR(d.First, key, csr).Refused(protocol.TryAgainLater)
	d.Get(d.First, NewKey()).Refused(protocol.TryAgainLater)
	d.Ack(d.First).Refused(protocol.TryAgainLater)
	r.Sweep()
	goOn()
	d.WantStates(rotation.Vended)
	next := d.GetCSR(d.First, key, csr).OK()
	d.Store(next)
	if n := len(d.held()); n != 2 {
		t.Errorf("the device holds %d certificates, want 2", n)
	}
	d.Ack(next).OK()
}

// deadInstance: what an instance has begun is taken over when its lease has
// run out, and what it does later changes nothing.
func deadInstance(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	key := NewKey()
	_, goOn := d.atWork(CSR(key, "d"))
	r.Advance(rotation.LeaseTime)
	next := d.Get(d.First, key).OK()
	d.Store(next)
	r.replies = nil
	goOn()
	d.WantStates(rotation.Vended)
	if again := d.Get(d.First, key).OK(); again.PEM != next.PEM {
		t.Error("another certificate")
	}
	d.Ack(next).OK()
	d.Want(certificate.Active, next)
}
