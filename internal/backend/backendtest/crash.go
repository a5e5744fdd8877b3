package backendtest

import (
	"fmt"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/rotation"
)

// crashScenarios kill the process before and after every single thing it does
// in a course of events. Whatever it was, the device asks again, as devices
// do, and ends on one certificate for its key.
func crashScenarios() []scenario {
	return []scenario{
		{"case_33_at_every_step_of_a_rotation_by_csr", func(t *testing.T, open Open) { crashEverywhere(t, open, byCSR) }},
		{"at_every_step_of_a_rotation_by_package", func(t *testing.T, open Open) { crashEverywhere(t, open, byPackage) }},
		{"at_every_step_of_superseding", func(t *testing.T, open Open) { crashEverywhere(t, open, bySuperseding) }},
		{"at_every_step_of_a_proof", func(t *testing.T, open Open) { crashEverywhere(t, open, byProof) }},
	}
}

// course is a course of events of which every step can be repeated: it is
// played until the process dies, and again from the start after that.
type course struct {
	prepare func(*Device) *journey
	play    func(*journey)
}

// journey is what a device has on its way from one certificate to the next.
type journey struct {
	*Device
	first, next, then Cert
	done              bool
}

func crashEverywhere(t *testing.T, open Open, c course) {
	steps, slow := crashAt(t, open, c, 0, false)
	if steps < 5 {
		t.Fatalf("the course has %d steps: nothing was tested", steps)
	}
	stride := 1
	if RaceDetector || slow {
		stride = 7
	}
	for n := 1; n <= steps; n += stride {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%02d_after_%t", n, after), func(t *testing.T) { crashAt(t, open, c, n, after) })
		}
	}
}

// crashAt plays a course with a process that dies at one operation, and
// returns how many operations there were, and whether the world is a slow one.
func crashAt(t *testing.T, open Open, c course, n int, after bool) (steps int, slow bool) {
	t.Helper()
	r := start(t, open, func(s *Setup) { s.Profile.Terms.Previous = certificate.Delete })
	d := r.Device("d")
	d.join()
	j := c.prepare(d)
	r.faults.killAt, r.faults.after = r.faults.count+n, after
	before := r.faults.count
	if n == 0 {
		r.faults.killAt = 0
	}
	for try := 0; !j.done; try++ {
		if try > 3 {
			t.Fatal("it gets nowhere")
		}
		c.play(j)
		if r.faults.isDead() {
			if t.Logf("killed at %q", r.faults.trace[len(r.faults.trace)-1]); j.done {
				j.done = false
			}
			r.Crash()
		}
	}
	steps = r.faults.count - before
	r.Settled()
	r.Sweep()
	r.wantWhole(j)
	return steps, r.world.Slow
}

// wantWhole checks that nothing is half done.
func (r *Rig) wantWhole(j *journey) {
	r.t.Helper()
	last := j.rotations()[0]
	if last.State != rotation.Finished || len(last.Behind) > 0 || last.Lease != (rotation.Lease{}) {
		r.t.Fatalf("the rotation is left as %+v", last)
	}
	j.Want(certificate.Active, j.next)
	active := 0
	for _, h := range j.held() {
		if h.Standing == certificate.Active {
			active++
		}
	}
	if active != 1 {
		r.t.Fatalf("%d certificates are active, want 1: %v", active, j.describe(j.held()))
	}
	j.wantLeft(j.next)
	open, err := r.world.Backend.Rotations.Retirements(r.ctx, rotation.Query{Device: j.ID, Open: true})
	r.must(err)
	if len(open) > 0 {
		r.t.Fatalf("retirements are left: %+v", open)
	}
	counts, err := r.world.Backend.Rotations.Counts(r.ctx)
	r.must(err)
	if counts.Orphans > 0 {
		r.t.Fatalf("%d orphans", counts.Orphans)
	}
}

// again asks until it is accepted or the process dies; later is all that may
// stand in between.
func (j *journey) again(ask func() Reply) (Reply, bool) {
	for range 3 {
		reply := ask()
		if reply.Accepted {
			return reply, true
		}
		if j.rig.faults.isDead() {
			return reply, false
		}
		j.rig.Advance(time.Minute)
	}
	j.rig.t.Fatal("it is refused for ever")
	return Reply{}, false
}

// finish connects, acks, and lets the sweep do what is left.
func (j *journey) finish() {
	r := j.rig
	if err := j.Connect(j.next); err != nil {
		if !r.faults.isDead() {
			r.t.Fatal(err)
		}
		return
	}
	if _, ok := j.again(func() Reply { return j.Ack(j.next) }); !ok {
		return
	}
	r.Settled()
	for range 2 {
		if _ = j.Connect(j.next); r.faults.isDead() {
			return
		}
		if r.Sweep(); r.faults.isDead() {
			return
		}
	}
	j.done = true
}

var byCSR = course{
	prepare: func(d *Device) *journey { return &journey{Device: d, first: d.First, next: Cert{Key: NewKey()}} },
	play: func(j *journey) {
		if j.next.ID == "" {
			reply, ok := j.again(func() Reply { return j.Get(j.first, j.next.Key) })
			if !ok {
				return
			}
			j.next = reply.OK()
			j.Store(j.next)
		}
		j.finish()
	},
}

var byPackage = course{
	prepare: func(d *Device) *journey { return &journey{Device: d, first: d.First, next: d.Packaged()} },
	play: func(j *journey) {
		if _, there := j.disk[j.next.ID]; !there {
			reply, ok := j.again(func() Reply { return j.GetPackage(j.first) })
			if !ok {
				return
			}
			j.fetch(reply.Location, j.next)
			j.Store(j.next)
		}
		j.finish()
	},
}

var bySuperseding = course{
	prepare: func(d *Device) *journey {
		return &journey{Device: d, first: d.First, then: d.Take(d.First), next: Cert{Key: NewKey()}}
	},
	play: byCSR.play,
}

// byProof proves by signature first, and is then seen in use.
var byProof = course{
	prepare: func(d *Device) *journey {
		return &journey{Device: d, first: d.First, next: d.blind()}
	},
	play: func(j *journey) {
		if _, ok := j.again(func() Reply { return j.Prove(j.next) }); !ok {
			return
		}
		r := j.rig
		r.Advance(25 * time.Hour)
		for range 3 {
			if _ = j.Connect(j.next); r.faults.isDead() {
				return
			}
			if r.Sweep(); r.faults.isDead() {
				return
			}
			r.Settled()
		}
		j.done = true
	},
}
