package backendtest

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

func packageScenarios() []scenario {
	return []scenario{
		{"case_01_02_03_04_get_without_csr_activates_the_package", getPackageForms},
		{"case_05_link_serves_the_package_until_it_ends", linkServes},
		{"case_07_no_package_is_refused", noPackage},
		{"case_10_activation_that_fails_sends_no_link", activationFails},
		{"case_11_withdrawn_package_stays_withdrawn", withdrawnPackage},
		{"case_12_package_of_another_device_is_refused", foreignPackage},
		{"case_15_100_package_round_trip_writes_the_attributes", packageRoundTrip},
		{"open_package_again_is_the_same_with_a_new_link", packageAgain},
		{"spent_package_is_refused_and_its_links_are_dead", spentPackage},
		{"expired_package_is_refused", expiredPackage},
		{"new_package_supersedes_the_open_one", replacedPackage},
		{"csr_over_the_old_certificate_supersedes_the_package", csrAfterPackage},
		{"package_over_the_old_certificate_supersedes_the_csr", packageAfterCSR},
		{"package_over_the_new_certificate_finishes_the_csr", packageOverNew},
		{"waiting_package_is_never_retired", waitingPackage},
		{"package_behind_a_spent_one_is_not_handed_out", formerPackage},
		{"connection_of_before_that_is_told_late_proves_no_package", toldLate},
	}
}

// Packaged puts a package that waits for the device.
func (d *Device) Packaged() Cert {
	r := d.rig
	r.t.Helper()
	r.clock.Advance(tick)
	key := NewKey()
	c := r.issue(d.ID, key, certificate.Packaged, certificate.Inactive)
	r.must(r.world.Backend.Inventory.Register(r.ctx, d.ID, c))
	r.must(r.world.Backend.Packages.Put(r.ctx, d.ID, c.ID, zipOf(c.ID)))
	return Cert{ID: c.ID, Key: key, PEM: c.PEM()}
}

func zipOf(id certificate.ID) []byte { return []byte("the zip of " + id) }

// Unpack gets the waiting package, which must succeed, fetches and stores it.
func (d *Device) Unpack(over, waiting Cert) Reply {
	d.rig.t.Helper()
	reply := d.GetPackage(over)
	if got := reply.OK(); got.ID != waiting.ID {
		d.rig.t.Fatalf("got package %.8s, want %.8s", got.ID, waiting.ID)
	}
	d.fetch(reply.Location, waiting)
	d.Store(waiting)
	return reply
}

func (d *Device) fetch(url string, want Cert) {
	d.rig.t.Helper()
	status, body := d.rig.world.Fetch(url)
	if status != http.StatusOK || !bytes.Equal(body, zipOf(want.ID)) {
		d.rig.t.Fatalf("fetched %d, %q", status, body)
	}
}

// wantDead checks that a link serves nothing. A world may say of a link that is
// still good that what it leads to is gone.
func (d *Device) wantDead(url string) {
	d.rig.t.Helper()
	status, body := d.rig.world.Fetch(url)
	if status != http.StatusForbidden && status != http.StatusNotFound || bytes.Contains(body, []byte("the zip of")) {
		d.rig.t.Fatalf("a dead link serves %d, %q", status, body)
	}
}

func getPackageForms(t *testing.T, open Open) {
	for _, body := range []string{"", "{}", `{"foo":1}`} {
		r := start(t, open)
		d := r.Device("d")
		waiting := d.Packaged()
		d.Want(certificate.Inactive, waiting)
		reply := d.Ask(d.First, protocol.Get, body)
		if reply.OK().ID != waiting.ID || reply.Location == "" || reply.Certificate != "" {
			t.Fatalf("%q: got %+v", body, reply)
		}
		d.Want(certificate.Active, waiting, d.First)
	}
}

func linkServes(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	reply := d.Unpack(d.First, waiting)
	d.fetch(reply.Location, waiting) // any number of times
	d.wantDead(reply.Location + "x")
	r.Advance(time.Hour)
	d.wantDead(reply.Location)
}

func noPackage(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.GetPackage(d.First).Refused(protocol.NoPackage)
	d.WantStates()
}

func activationFails(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	r.faults.fail("activate", 1)
	d.GetPackage(d.First).Refused(protocol.ActivationFailed)
	d.Want(certificate.Inactive, waiting)
	r.faults.fail("link", 1)
	d.GetPackage(d.First).Refused(protocol.LinkFailed)
	d.Unpack(d.First, waiting)
}

func withdrawnPackage(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	r.withdraw(d, waiting, certificate.Delete)
	d.GetPackage(d.First).Refused(protocol.NoPackage)
	d.Want("", waiting)
}

func foreignPackage(t *testing.T, open Open) {
	r := start(t, open)
	d, e := r.Device("d"), r.Device("e")
	theirs := e.Packaged()
	r.must(r.world.Backend.Packages.Put(r.ctx, d.ID, theirs.ID, zipOf(theirs.ID)))
	d.GetPackage(d.First).Refused(protocol.NoPackage)
	e.Want(certificate.Inactive, theirs)
	e.Unpack(e.First, theirs)
}

func packageRoundTrip(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	r.must(r.world.Backend.Group.Add(r.ctx, d.ID))
	waiting := d.Packaged()
	d.Unpack(d.First, waiting)
	r.must(d.Connect(waiting))
	d.Ack(waiting).OK()
	d.Want(certificate.Active, waiting)
	d.Want(certificate.Inactive, d.First)
	d.WantStates(rotation.Finished)
	d.wantLeft(waiting)
}

func packageAgain(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	first := d.Unpack(d.First, waiting)
	r.Advance(time.Minute)
	second := d.Unpack(d.First, waiting)
	if first.Location == second.Location {
		t.Error("the second link is the first one")
	}
	d.fetch(first.Location, waiting)
	d.Unpack(unseen, waiting)
	d.WantStates(rotation.Vended)
	d.Unpack(waiting, waiting)
	d.WantStates(rotation.Proven)
}

func spentPackage(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	reply := d.Unpack(d.First, waiting)
	d.Ack(waiting).OK()
	d.wantDead(reply.Location)
	if got := d.GetPackage(waiting).Refused(protocol.NoPackage); got.Detail == "" {
		t.Error("the refusal does not say why")
	}
	d.WantStates(rotation.Finished)
	next := d.Packaged()
	d.Unpack(waiting, next)
	d.Ack(next).OK()
	d.Want(certificate.Inactive, waiting)
}

func expiredPackage(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Validity = 48 * time.Hour })
	d := r.Device("d")
	waiting := d.Packaged()
	r.Advance(49 * time.Hour)
	d.GetPackage(d.First).Refused(protocol.NoPackage)
	d.Want(certificate.Inactive, waiting)
}

func replacedPackage(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Packaged()
	d.Unpack(d.First, one)
	two := d.Packaged()
	d.Unpack(d.First, two)
	d.WantStates(rotation.Vended, rotation.Superseded)
	d.Want(certificate.Active, one, two, d.First)
	d.Ack(two).OK()
	d.Want(certificate.Inactive, one, d.First)
}

func csrAfterPackage(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	d.Unpack(d.First, waiting)
	next := d.Take(d.First)
	d.WantStates(rotation.Vended, rotation.Superseded)
	d.Want(certificate.Active, waiting, next, d.First)
	d.GetPackage(d.First).Refused(protocol.TryAgainLater)
	r.Advance(11 * time.Minute)
	d.GetPackage(d.First).Refused(protocol.NoPackage)
	d.Ack(next).OK()
	d.Want(certificate.Inactive, waiting, d.First)
}

func packageAfterCSR(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	key := NewKey()
	first := d.Get(d.First, key).OK()
	d.Store(first)
	waiting := d.Packaged()
	d.Unpack(d.First, waiting)
	d.WantStates(rotation.Vended, rotation.Superseded)
	d.Get(d.First, key).Refused(protocol.TryAgainLater)
	d.Ack(waiting).OK()
	d.Want(certificate.Inactive, first, d.First)
}

func packageOverNew(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	first := d.Take(d.First)
	waiting := d.Packaged()
	d.Unpack(first, waiting)
	d.WantStates(rotation.Vended, rotation.Finished)
	d.Want(certificate.Inactive, d.First)
	d.Want(certificate.Active, first, waiting)
}

func waitingPackage(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) {
		s.Profile.Terms.Retire, s.Profile.Terms.Previous = rotation.All, certificate.Delete
	})
	d := r.Device("d")
	waiting := d.Packaged()
	next := d.Take(d.First)
	d.Ack(next).OK()
	r.Settled()
	r.must(d.Connect(next))
	r.Sweep()
	r.Sweep()
	d.Want("", d.First)
	d.Want(certificate.Inactive, waiting)
	d.Unpack(next, waiting)
}

// formerPackage: the one before a spent one had its file taken away when that
// one came; it is not what waits.
func formerPackage(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	one := d.Packaged()
	two := d.Packaged()
	d.Unpack(d.First, two)
	d.Ack(two).OK()
	d.GetPackage(two).Refused(protocol.NoPackage)
	d.Want(certificate.Inactive, one)
	d.WantStates(rotation.Finished)
}

// toldLate: a package may have been in use before; what a bus tells late of that
// time says nothing about the rotation.
func toldLate(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	waiting := d.Packaged()
	before := r.clock.Now()
	d.Unpack(d.First, waiting)
	late := d.caller(waiting, certificate.Presence)
	late.At = before
	r.must(r.primary.handler.Present(r.ctx, late))
	r.Sweep()
	d.WantStates(rotation.Vended)
	r.must(d.Connect(waiting))
	d.WantStates(rotation.Proven)
}
