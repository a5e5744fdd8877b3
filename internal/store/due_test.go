package store_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// due lists all that is due, page by page, as "device number" and
// "device certificate".
func (w *world) due(h rotation.Horizon) (rotations, retirements []string) {
	w.t.Helper()
	if h.Now.IsZero() {
		h.Now = w.clock.Now()
	}
	for {
		work := must[rotation.Work](w.t)(w.Journal().Due(w.ctx, h))
		if len(work.Rotations)+len(work.Retirements) == 0 {
			return rotations, retirements
		}
		if n := h.Limit; n > 0 && (len(work.Rotations) > n || len(work.Retirements) > n) {
			w.t.Fatalf("a page of %d and %d, the limit is %d", len(work.Rotations), len(work.Retirements), n)
		}
		last := h.After
		for _, r := range work.Rotations {
			if r.Device <= h.After {
				w.t.Fatalf("%s comes again after %s", r.Device, h.After)
			}
			rotations = append(rotations, fmt.Sprintf("%s %d", r.Device, r.Number))
			last = max(last, r.Device)
		}
		for _, r := range work.Retirements {
			if r.Device <= h.After {
				w.t.Fatalf("%s comes again after %s", r.Device, h.After)
			}
			retirements = append(retirements, fmt.Sprintf("%s %s", r.Device, r.Certificate))
			last = max(last, r.Device)
		}
		h.After = last
	}
}

func TestWhatIsDue(t *testing.T) {
	hour := start.Add(time.Hour)
	lease := rotation.Lease{Instance: "two", Until: start.Add(rotation.LeaseTime)}
	for name, c := range map[string]struct {
		r    rotation.Rotation
		h    rotation.Horizon
		want bool
	}{
		"vended before":          {rotation.Rotation{State: rotation.Vended, VendedAt: start}, rotation.Horizon{Vended: hour}, true},
		"vended at":              {rotation.Rotation{State: rotation.Vended, VendedAt: hour}, rotation.Horizon{Vended: hour}, false},
		"vended, leased":         {rotation.Rotation{State: rotation.Vended, VendedAt: start, Lease: lease}, rotation.Horizon{Vended: hour}, false},
		"vended, lease ended":    {rotation.Rotation{State: rotation.Vended, VendedAt: start, Lease: lease}, rotation.Horizon{Vended: hour, Now: lease.Until}, true},
		"intended before":        {rotation.Rotation{State: rotation.Intended, Opened: start}, rotation.Horizon{Vended: hour}, true},
		"intended after":         {rotation.Rotation{State: rotation.Intended, Opened: hour}, rotation.Horizon{Vended: hour}, false},
		"issued before":          {rotation.Rotation{State: rotation.Issued, Opened: start}, rotation.Horizon{Vended: hour}, true},
		"issued, leased":         {rotation.Rotation{State: rotation.Issued, Opened: start, Lease: lease}, rotation.Horizon{Vended: hour}, false},
		"acknowledged":           {rotation.Rotation{State: rotation.Acknowledged, VendedAt: start}, rotation.Horizon{Vended: hour}, false},
		"stale":                  {rotation.Rotation{State: rotation.Stale, VendedAt: start}, rotation.Horizon{Vended: hour}, false},
		"proven before":          {rotation.Rotation{State: rotation.Proven, ProvenAt: start}, rotation.Horizon{Proven: hour}, true},
		"proven after":           {rotation.Rotation{State: rotation.Proven, ProvenAt: hour}, rotation.Horizon{Proven: hour}, false},
		"proven, not vended":     {rotation.Rotation{State: rotation.Proven, VendedAt: start, ProvenAt: hour}, rotation.Horizon{Vended: hour, Proven: hour}, false},
		"finished":               {rotation.Rotation{State: rotation.Finished, ProvenAt: start}, rotation.Horizon{Vended: hour, Proven: hour}, false},
		"steps left behind":      {rotation.Rotation{State: rotation.Finished, Behind: []rotation.Step{rotation.LeaveGroup}}, rotation.Horizon{}, true},
		"steps behind an ack":    {rotation.Rotation{State: rotation.Acknowledged, Behind: []rotation.Step{rotation.LeaveGroup}}, rotation.Horizon{}, true},
		"steps behind, leased":   {rotation.Rotation{State: rotation.Acknowledged, Behind: []rotation.Step{rotation.LeaveGroup}, Lease: lease}, rotation.Horizon{}, false},
		"after the device":       {rotation.Rotation{State: rotation.Vended, VendedAt: start}, rotation.Horizon{Vended: hour, After: "d1"}, false},
		"due for several causes": {rotation.Rotation{State: rotation.Proven, ProvenAt: start, Behind: []rotation.Step{rotation.LeaveGroup}}, rotation.Horizon{Proven: hour}, true},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, w *world) {
				r := c.r
				r.Device, r.Number = "d1", 1
				first := r
				first.State = rotation.Intended
				opened := must[rotation.Rotation](t)(w.Journal().Open(w.ctx, first, nil))
				if r.State != rotation.Intended {
					r.Version = opened.Version
					if r.State == rotation.Issued && r.Lease == (rotation.Lease{}) {
						r.Lease = rotation.Lease{Instance: "one", Until: start} // or it is given up
					}
					w.advance(rotation.Change{Rotation: r})
				}
				rotations, _ := w.due(c.h)
				if got := len(rotations) == 1; got != c.want || len(rotations) > 1 {
					t.Errorf("due: %v, want %v", rotations, c.want)
				}
			})
		})
	}
}

func TestDueRetirements(t *testing.T) {
	w := open(t)
	r, _ := w.vend("d1", "k1", nil)
	owed := map[certificate.ID]rotation.Retirement{
		"due":      {Due: start},
		"later":    {Due: start.Add(time.Nanosecond)},
		"never":    {Due: start.Add(math.MaxInt64)}, // the longest grace there can be
		"reverted": {Due: start, Reverted: true},
		"half":     {Due: start, Deactivated: start},
		"done":     {Due: start, Done: start},
	}
	change := rotation.Change{Rotation: r}
	for id, o := range owed {
		o.Device, o.Certificate, o.Rotation, o.Mode = "d1", id, 1, certificate.Delete
		change.Retirements = append(change.Retirements, o)
	}
	w.advance(change)
	_, retirements := w.due(rotation.Horizon{})
	slices.Sort(retirements)
	if diff := cmp.Diff([]string{"d1 due", "d1 half", "d1 reverted"}, retirements); diff != "" {
		t.Error(diff)
	}
	counts := must[rotation.Counts](t)(w.Journal().Counts(w.ctx))
	if counts.Retirements != 5 || counts.Stuck != 3 {
		t.Errorf("counts %+v, want 5 retirements and 3 stuck", counts)
	}
}

// Pages of every size hold the same work, each row once; small pages read it
// by device, large ones by time.
func TestDueByPage(t *testing.T) {
	w := open(t)
	const devices = 40
	var wantRotations, wantRetirements []string
	for i := range devices {
		id := registry.DeviceID(fmt.Sprintf("d%02d", (i*7)%devices))
		switch i % 4 {
		case 0: // vended long ago
			w.vend(id, string(id), nil)
			wantRotations = append(wantRotations, string(id)+" 1")
		case 1: // proven, with a retirement
			r, _ := w.vend(id, string(id), nil)
			r.State, r.ProvenAt = rotation.Proven, start
			w.advance(rotation.Change{Rotation: r, Retirements: []rotation.Retirement{{Device: id, Certificate: "old", Rotation: 1, Due: start}}})
			wantRotations = append(wantRotations, string(id)+" 1")
			wantRetirements = append(wantRetirements, string(id)+" old")
		case 2: // in memory only
			w.draft(id, string(id), nil)
			wantRotations = append(wantRotations, string(id)+" 1")
		case 3: // gave way to what is in memory only
			r, _ := w.vend(id, string(id), nil)
			w.draft(id, string(id)+"b", &r)
			wantRotations = append(wantRotations, string(id)+" 2")
		}
	}
	slices.Sort(wantRotations)
	slices.Sort(wantRetirements)
	w.clock.add(time.Hour)
	for _, limit := range []int{0, 1, 2, 3, 7, 19, 100} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			w := &world{Store: w.Store, t: t, ctx: w.ctx, clock: w.clock}
			rotations, retirements := w.due(rotation.Horizon{Vended: w.clock.Now(), Proven: w.clock.Now(), Limit: limit})
			if diff := cmp.Diff(wantRotations, rotations); diff != "" {
				t.Errorf("rotations: %s", diff)
			}
			if diff := cmp.Diff(wantRetirements, retirements); diff != "" {
				t.Errorf("retirements: %s", diff)
			}
		})
	}
}

// The list that is cut earlier decides where the page ends.
func TestDueListsAreCutTogether(t *testing.T) {
	w := open(t)
	var want []string
	for i := range 6 {
		id := registry.DeviceID(fmt.Sprintf("a%d", i))
		r, _ := w.vend(id, string(id), nil)
		r.State = rotation.Finished
		w.advance(rotation.Change{Rotation: r, Retirements: []rotation.Retirement{{Device: id, Certificate: "x", Rotation: 1, Due: start}}})
		w.vend(registry.DeviceID(fmt.Sprintf("b%d", i)), "k"+string(id), nil)
		want = append(want, string(id)+" x")
	}
	w.clock.add(time.Hour)
	rotations, retirements := w.due(rotation.Horizon{Vended: w.clock.Now(), Limit: 2})
	if diff := cmp.Diff(want, retirements); diff != "" || len(rotations) != 6 {
		t.Errorf("%d rotations; retirements: %s", len(rotations), diff)
	}
}

func TestOneDeviceWithMoreThanAPage(t *testing.T) {
	w := open(t)
	r, _ := w.vend("d1", "k1", nil)
	change := rotation.Change{Rotation: r}
	for i := range 5 {
		change.Retirements = append(change.Retirements, rotation.Retirement{
			Device: "d1", Certificate: certificate.ID(fmt.Sprint(i)), Rotation: 1, Due: start,
		})
	}
	w.advance(change)
	r, _ = w.vend("d2", "k2", nil)
	w.advance(rotation.Change{Rotation: r, Retirements: []rotation.Retirement{{Device: "d2", Certificate: "x", Rotation: 1, Due: start}}})
	_, retirements := w.due(rotation.Horizon{Limit: 2})
	if n := len(retirements); n != 3 || retirements[2] != "d2 x" {
		t.Errorf("due %v, want two of d1 and that of d2", retirements)
	}
}

func TestRotationsAreListed(t *testing.T) {
	w := open(t)
	for _, id := range []registry.DeviceID{"d1", "d2", "d3"} {
		a, _ := w.vend(id, "a"+string(id), nil)
		b, _ := w.vend(id, "b"+string(id), &a)
		b.State = rotation.Finished
		w.advance(rotation.Change{Rotation: b, Retirements: []rotation.Retirement{
			{Device: id, Certificate: "x", Rotation: 2}, {Device: id, Certificate: "y", Rotation: 2, Done: start},
		}})
		if id == "d2" {
			c, _ := w.vend(id, "c", nil)
			c.State = rotation.Stale
			w.advance(rotation.Change{Rotation: c})
		}
	}
	for name, c := range map[string]struct {
		query rotation.Query
		want  string
	}{
		"all":       {rotation.Query{}, "d1 2, d1 1, d2 3, d2 2, d2 1, d3 2, d3 1"},
		"device":    {rotation.Query{Device: "d2"}, "d2 3, d2 2, d2 1"},
		"state":     {rotation.Query{State: rotation.Superseded}, "d1 1, d2 1, d3 1"},
		"open":      {rotation.Query{Open: true}, "d2 3"},
		"page":      {rotation.Query{Limit: 1}, "d1 2, d1 1"},
		"page of 3": {rotation.Query{Limit: 3}, "d1 2, d1 1, d2 3, d2 2, d2 1"},
		"next page": {rotation.Query{Limit: 1, After: "d2"}, "d3 2, d3 1"},
		"last page": {rotation.Query{After: "d3"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, r := range must[[]rotation.Rotation](t)(w.Journal().Rotations(w.ctx, c.query)) {
				got = append(got, fmt.Sprintf("%s %d", r.Device, r.Number))
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
	if all := w.retirements(); len(all) != 6 {
		t.Errorf("%d retirements, want 6", len(all))
	}
	open := must[[]rotation.Retirement](t)(w.Journal().Retirements(w.ctx, rotation.Query{Open: true, Device: "d2"}))
	if len(open) != 1 || open[0].Certificate != "x" {
		t.Errorf("open retirements of d2: %+v", open)
	}
}

func TestCounts(t *testing.T) {
	w := open(t)
	c := w.register("d1", "c1")
	for i := range 3 {
		id := registry.DeviceID(fmt.Sprintf("d%d", i))
		r, _ := w.vend(id, "k"+string(id), nil)
		if i > 0 {
			r.State = rotation.Finished
			w.advance(rotation.Change{Rotation: r})
		}
	}
	counts := must[rotation.Counts](t)(w.Journal().Counts(w.ctx))
	want := rotation.Counts{States: map[rotation.State]int{rotation.Vended: 1, rotation.Finished: 2}}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Error(diff)
	}
	w.ok(w.Write(w.ctx, `UPDATE holdings SET detached = 1 WHERE certificate = '`+string(c.ID)+`'`))
	if n := must[rotation.Counts](t)(w.Journal().Counts(w.ctx)).Orphans; n != 1 {
		t.Errorf("%d orphans, want 1", n)
	}
}
