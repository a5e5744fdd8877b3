package store_test

import (
	"bytes"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// finishing is a device with a rotation that is about to be finished, and what it
// is to leave behind.
func (w *world) finishing(id registry.DeviceID, behind ...rotation.Step) rotation.Change {
	w.t.Helper()
	r, c := w.vend(id, "k-"+string(id), nil)
	w.clock.add(time.Minute)
	r.State, r.ProvenAt, r.Behind = rotation.Finished, w.clock.Now(), behind
	return rotation.Change{Rotation: r, Ending: &rotation.Ending{
		Attributes: map[string]string{"certificateId": string(c.ID), "status": "active"}, Leaves: r.Opened,
	}}
}

// kinds counts the events of a device.
func (w *world) kinds(id registry.DeviceID) map[string]int {
	w.t.Helper()
	n := map[string]int{}
	for _, e := range must[[]store.Event](w.t)(w.Audit().Timeline(w.ctx, id)) {
		n[e.Kind]++
	}
	return n
}

func TestEndingIsOneCommitWithItsRotation(t *testing.T) {
	both := []rotation.Step{rotation.Attributes, rotation.LeaveGroup}
	for name, test := range map[string]struct {
		before            func(*world)
		behind, left      []rotation.Step
		described, member bool
	}{
		"a member":           {func(w *world) { w.member("d1") }, both, nil, true, false},
		"no member":          {func(*world) {}, both, nil, true, false},
		"with a job at work": {func(w *world) { w.member("d1"); w.wantReleased(1, "d1"); w.set("d1", "IN_PROGRESS") }, both, nil, true, false},
		// It is to be told that its job is gone: Group.Remove has that done.
		"with a job that waits": {func(w *world) { w.member("d1"); w.wantReleased(1, "d1") }, both, both[1:], true, true},
		"with a package to spend": {func(w *world) { w.member("d1") },
			[]rotation.Step{rotation.Attributes, rotation.Package, rotation.LeaveGroup}, []rotation.Step{rotation.Package, rotation.LeaveGroup}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.ensure(job)
			w.device("d1")
			test.before(w)
			w.clock.add(time.Minute)
			change := w.finishing("d1", test.behind...)
			before := w.Commits()
			r := must[rotation.Rotation](t)(w.Journal().Ending().Advance(w.ctx, change))
			if n := w.Commits() - before; n != 1 {
				t.Errorf("%d commits, want 1", n)
			}
			if diff := cmp.Diff([]rotation.Rotation{r}, w.find("d1").Rotations); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.left, r.Behind); diff != "" {
				t.Error(diff)
			}
			w.ended("d1", change.Ending, test.described, test.member)
		})
	}
}

// ended checks what an ending has come to.
func (w *world) ended(id registry.DeviceID, ending *rotation.Ending, described, member bool) {
	w.t.Helper()
	d := must[registry.Device](w.t)(w.Devices().Device(w.ctx, id))
	if maps.Equal(d.Attributes, ending.Attributes) != described {
		w.t.Errorf("attributes %v, want those of the ending: %t", d.Attributes, described)
	}
	if is := must[bool](w.t)(w.Group().Has(w.ctx, id)); is != member {
		w.t.Errorf("a member: %t, want %t", is, member)
	}
	kinds := w.kinds(id)
	if kinds["device.attributes"] != n(described) {
		w.t.Errorf("events %v", kinds)
	}
	if kinds["group.added"] > 0 && kinds["group.removed"] != n(!member) {
		w.t.Errorf("events %v", kinds)
	}
}

func n(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func TestEndingOfAnotherWorldIsLeftToOthers(t *testing.T) {
	w := open(t)
	w.device("d1")
	w.member("d1")
	w.clock.add(time.Minute)
	change := w.finishing("d1", rotation.Attributes, rotation.LeaveGroup)
	r := w.advance(change)
	if diff := cmp.Diff(change.Rotation.Behind, r.Behind); diff != "" {
		t.Error(diff)
	}
	w.ended("d1", change.Ending, false, true)
}

func TestEndingSparesWhoCameLater(t *testing.T) {
	w := open(t)
	w.device("d1")
	change := w.finishing("d1", rotation.Attributes, rotation.LeaveGroup)
	w.member("d1") // after the rotation had opened
	if r := must[rotation.Rotation](t)(w.Journal().Ending().Advance(w.ctx, change)); len(r.Behind) > 0 {
		t.Errorf("left behind: %v", r.Behind)
	}
	w.ended("d1", change.Ending, true, true)
}

func TestEndingOfADeviceThatWasRemoved(t *testing.T) {
	w := open(t)
	w.device("d1")
	change := w.finishing("d1", rotation.Attributes, rotation.LeaveGroup)
	w.ok(w.Devices().Remove(w.ctx, "d1"))
	if r := must[rotation.Rotation](t)(w.Journal().Ending().Advance(w.ctx, change)); len(r.Behind) > 0 {
		t.Errorf("left behind: %v", r.Behind)
	}
}

func TestEndingIsNoneWhereTheRotationWasChanged(t *testing.T) {
	w := open(t)
	w.device("d1")
	w.member("d1")
	w.clock.add(time.Minute)
	change := w.finishing("d1", rotation.Attributes, rotation.LeaveGroup)
	change.Rotation.Version--
	_, err := w.Journal().Ending().Advance(w.ctx, change)
	w.is(err, rotation.ErrChanged)
	w.ended("d1", change.Ending, false, true)
}

// A crash may tear the audit's files in the middle of a commit. What they have lost
// of an ending, whoever replays them does.
func TestEndingThatIsTornIsDoneAfterAReplay(t *testing.T) {
	r := &replayed{copy: filepath.Join(t.TempDir(), "copy.db"), dir: filepath.Join(t.TempDir(), "audit")}
	r.world = open(t, func(c *store.Config) { c.AuditDir = r.dir })
	r.member("d1")
	r.clock.add(time.Minute)
	change := r.finishing("d1", rotation.Attributes, rotation.LeaveGroup)
	must[store.Copied](t)(r.Copy(r.ctx, r.copy))
	must[rotation.Rotation](t)(r.Journal().Ending().Advance(r.ctx, change))
	r.ok(r.Close())

	lines := bytes.SplitAfter(r.audit(), []byte("\n"))
	for !bytes.Contains(lines[len(lines)-1], []byte(`"finished"`)) {
		lines = lines[:len(lines)-1]
	}
	r.write(bytes.Join(lines, nil))
	s, _, err := r.again()
	r.ok(err)
	if member := must[bool](t)(s.Group().Has(r.ctx, "d1")); !member {
		t.Fatal("nothing was torn: the test shows nothing")
	}
	work := must[rotation.Work](t)(s.Journal().Due(r.ctx, rotation.Horizon{Now: r.clock.Now(), Limit: 9}))
	if len(work.Rotations) != 1 {
		t.Fatalf("%d rotations are due", len(work.Rotations))
	}
	if diff := cmp.Diff(change.Rotation.Behind, work.Rotations[0].Behind); diff != "" {
		t.Error(diff)
	}
}

// What is left behind a rotation fails no ack: it is left to be done later.
func TestEndingThatFailsIsLeft(t *testing.T) {
	for _, fails := range []string{"INSERT ON attributes", "DELETE ON members"} {
		t.Run(fails, func(t *testing.T) {
			w := open(t)
			w.member("d1")
			w.clock.add(time.Minute)
			change := w.finishing("d1", rotation.Attributes, rotation.LeaveGroup)
			w.ok(w.Write(w.ctx, `CREATE TRIGGER failing BEFORE `+fails+` BEGIN SELECT RAISE(ABORT, 'this fails now'); END`))
			r := must[rotation.Rotation](t)(w.Journal().Ending().Advance(w.ctx, change))
			if diff := cmp.Diff(change.Rotation.Behind, r.Behind); diff != "" || r.State != rotation.Finished {
				t.Errorf("%s: %s", r.State, diff)
			}
			w.ended("d1", change.Ending, false, true)
			if diff := cmp.Diff([]rotation.Rotation{r}, w.find("d1").Rotations); diff != "" {
				t.Error(diff)
			}
		})
	}
}
