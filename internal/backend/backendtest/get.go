package backendtest

import (
	"crypto/x509"
	"encoding/pem"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

func getScenarios() []scenario {
	return []scenario{
		{"case_16_17_csr_is_answered_with_a_certificate_that_works", getWorks},
		{"case_31_37_one_reply_whatever_fails", oneReplyWhateverFails},
		{"case_32_same_key_is_the_same_certificate", sameKey},
		{"case_32_same_key_at_the_same_moment", sameKeyAtOnce},
		{"case_34_used_key_is_refused", usedKey},
		{"case_34_used_key_is_allowed_where_configured", reusedKey},
		{"case_59_unknown_device_is_refused", unknownDevice},
		{"case_67_certificate_of_another_device_is_not_bound", notBound},
		{"refused_get_leaves_the_open_rotation", refusedLeavesOpen},
	}
}

func getWorks(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	key := NewKey()
	reply := d.Get(d.First, key)
	next := reply.OK()
	leaf, chain := parsed(t, reply.Certificate)[0], parsed(t, reply.Chain)
	if err := leaf.CheckSignatureFrom(chain[0]); err != nil {
		t.Errorf("the certificate is not its issuer's: %v", err)
	}
	if reply.NotAfter != leaf.NotAfter.UTC().Format(time.RFC3339) {
		t.Errorf("notAfter %s, the certificate's is %s", reply.NotAfter, leaf.NotAfter)
	}
	d.Want(certificate.Active, d.First, next)
	d.WantStates(rotation.Vended)
	d.Store(next)
	r.must(d.Connect(next))
	d.WantStates(rotation.Proven)
}

func parsed(t *testing.T, text string) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		t.Fatal("no certificate in it")
	}
	return all
}

// oneReplyWhateverFails: every operation of a get fails once; the same key
// goes on where it was left, and gets one certificate.
func oneReplyWhateverFails(t *testing.T, open Open) {
	for operation, reason := range map[string]protocol.Reason{
		"seen": protocol.TryAgainLater, "open": protocol.TryAgainLater, "issue": protocol.IssueFailed,
		"advance": protocol.TryAgainLater, "register": protocol.RegisterFailed, "publish": protocol.PublishFailed,
	} {
		r := start(t, open)
		d := r.Device("d")
		key := NewKey()
		if operation == "seen" {
			next := d.Take(d.First) // so that the sighting is news
			d.Drop(d.First)
			d.First = next
		}
		r.faults.fail(operation, 1)
		d.Get(d.First, key).Refused(reason)
		next := d.Get(d.First, key).OK()
		if again := d.Get(d.First, key).OK(); again.PEM != next.PEM {
			t.Errorf("%s: another certificate", operation)
		}
		d.Store(next)
		d.Ack(next).OK()
	}
}

func sameKey(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	key := NewKey()
	first := d.Get(d.First, key)
	next := first.OK()
	d.Store(next)
	same := func(over Cert, state rotation.State) {
		t.Helper()
		again := d.Get(over, key)
		if again.OK().PEM != next.PEM || again.Chain != first.Chain || again.Nonce != first.Nonce || again.NotAfter != first.NotAfter {
			t.Errorf("another answer over %.8s in state %s", over.ID, state)
		}
		d.WantStates(state)
	}
	same(d.First, rotation.Vended)
	same(unseen, rotation.Vended)
	same(next, rotation.Proven)
	same(d.First, rotation.Proven)
	r.Crash()
	same(d.First, rotation.Proven)
}

// sameKeyAtOnce sends one request many times at the same moment.
func sameKeyAtOnce(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	queue := backend.NewQueue(4, time.Minute)
	r.queue = queue
	body := string(protocol.Encode(map[string]string{"csr": CSR(NewKey(), "d")}))
	var all sync.WaitGroup
	const requests = 10
	for range requests {
		all.Go(func() {
			r.primary.handler.Serve(r.ctx, vending.Message{
				Topic: protocol.DefaultTopics().Request("d", protocol.Get), Payload: []byte(body),
				Caller: d.caller(d.First, certificate.Connection),
			})
		})
	}
	all.Wait()
	if err := queue.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	accepted := map[string]int{}
	for _, m := range r.replies {
		if m.topic != protocol.DefaultTopics().Accepted("d", protocol.Get) {
			continue // busy: one at work, one waiting, the others later
		}
		var got protocol.GetAccepted
		r.must(protocol.Decode(m.payload, &got))
		accepted[got.Certificate]++
	}
	if len(r.replies) != requests || len(accepted) != 1 {
		t.Errorf("%d replies to %d requests, %d certificates", len(r.replies), requests, len(accepted))
	}
	if n := len(d.held()); n != 2 {
		t.Errorf("the device holds %d certificates, want 2", n)
	}
}

func usedKey(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.Get(d.First, d.First.Key).Refused(protocol.CSRRejected)
	next := d.Take(d.First)
	d.Ack(next).OK()
	d.Get(next, next.Key).Refused(protocol.CSRRejected)
	d.Get(next, d.First.Key).Refused(protocol.CSRRejected)
	d.WantStates(rotation.Finished)
	if n := len(r.known()); n != 2 {
		t.Errorf("%d certificates are known, want 2", n)
	}
}

func reusedKey(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.ReuseKey = true })
	d, e := r.Device("d"), r.Device("e")
	next := d.Get(d.First, d.First.Key).OK()
	d.Store(next)
	d.Ack(next).OK()
	for id := range d.vended {
		d.reissued[id] = true
	}
	again := d.Get(next, next.Key).OK()
	if again.ID == next.ID {
		t.Error("a finished rotation's certificate was vended again")
	}
	d.Store(again)
	d.Ack(again).OK()
	d.Want(certificate.Inactive, next)
	e.Get(e.First, again.Key).Refused(protocol.CSRRejected)
}

func unknownDevice(t *testing.T, open Open) {
	r := start(t, open)
	other := r.Device("known")
	d := r.stranger("stranger")
	key := NewKey()
	d.Get(unseen, key).Refused(protocol.NotAllowed)
	d.GetPackage(unseen).Refused(protocol.NotAllowed)
	d.Ack(unseen).Refused(protocol.NotAllowed)
	d.Get(other.First, key).Refused(protocol.NotAllowed)
	if n := len(r.known()); n != 1 {
		t.Errorf("%d certificates are known, want 1", n)
	}
}

func notBound(t *testing.T, open Open) {
	r := start(t, open)
	d, e := r.Device("d"), r.Device("e")
	next := d.Take(d.First)
	for _, c := range []Cert{d.First, next} {
		e.Get(c, NewKey()).Refused(protocol.NotBound)
		e.GetPackage(c).Refused(protocol.NotBound)
		e.Ack(c).Refused(protocol.NotBound)
		if e.Connect(c) == nil {
			t.Error("a certificate of another device connects")
		}
	}
	e.WantStates()
	d.WantStates(rotation.Vended)
}

func refusedLeavesOpen(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Take(d.First)
	for _, reply := range []Reply{
		d.Get(d.First, weakKey(t)),
		d.GetCSR(d.First, next.Key, "ping"),
		d.GetCSR(d.First, NewKey(), CSR(NewKey(), "another-name")),
		d.Get(d.First, d.First.Key),
		d.Get(d.First, NewKey(), "previousCertificateId", "a"),
		d.GetPackage(d.First),
		d.Ask(d.First, protocol.Get, "ping"),
	} {
		if reply.Accepted {
			t.Fatalf("accepted: %s", reply)
		}
		d.WantStates(rotation.Vended)
	}
	if again := d.Get(d.First, next.Key).OK(); again.PEM != next.PEM {
		t.Error("another certificate")
	}
	if n := len(r.known()); n != 2 {
		t.Errorf("%d certificates are known, want 2", n)
	}
}
