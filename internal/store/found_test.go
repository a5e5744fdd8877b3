package store_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// foreign makes a certificate as another place has it.
func foreign(t *testing.T, name string, standing certificate.Standing, policies ...string) certificate.Certificate {
	c := real(t, name, start.AddDate(1, 0, 0))
	c.Kind, c.Standing, c.Policies = certificate.Adopted, standing, policies
	return c
}

func (w *world) found(c certificate.Certificate, read time.Time) store.Found {
	w.t.Helper()
	return must[store.Found](w.t)(w.Certificates().Found(w.ctx, c, read, func() bool { return false }))
}

func (w *world) standingOf(c certificate.Certificate) certificate.Standing {
	w.t.Helper()
	return must[certificate.Certificate](w.t)(w.Certificates().Certificate(w.ctx, c.ID)).Standing
}

// TestFoundOffAndOn: the inventory goes down with the other place, and up again
// only where the other place had it down.
func TestFoundOffAndOn(t *testing.T) {
	w := open(t)
	w.device("d1")
	c := foreign(t, "c", certificate.Active, "p")
	w.ok(w.Certificates().Register(w.ctx, "d1", c))
	w.clock.add(time.Hour)
	off := c
	off.Standing = certificate.Inactive
	for _, step := range []struct {
		c        certificate.Certificate
		want     store.Found
		standing certificate.Standing
	}{
		{c, store.FoundAlike, certificate.Active},
		{off, store.FoundOff, certificate.Inactive},
		{off, store.FoundAlike, certificate.Inactive},
		{c, store.FoundOn, certificate.Active},
	} {
		if got := w.found(step.c, w.clock.Now()); got != step.want || w.standingOf(c) != step.standing {
			t.Errorf("%s: got %q and it is %s, want %q and %s", step.c.Standing, got, w.standingOf(c), step.want, step.standing)
		}
		w.clock.add(time.Hour)
	}
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", c.ID, certificate.Deactivate)))
	w.clock.add(time.Hour)
	if got := w.found(c, w.clock.Now()); got != store.FoundLeft || w.standingOf(c) != certificate.Inactive {
		t.Errorf("what was retired is %s: %q", w.standingOf(c), got)
	}
	more := foreign(t, "x", certificate.Active)
	w.ok(w.Certificates().Register(w.ctx, "d1", more))
	w.clock.add(time.Hour)
	more.Policies = []string{"p", "q"}
	if got := w.found(more, w.clock.Now()); got != store.FoundOther || len(w.holding("d1", more.ID).Policies) != 2 {
		t.Errorf("other policies: %q, %v", got, w.holding("d1", more.ID).Policies)
	}
}

// TestSeenOnWhatIsOff: also of a device that was just seen on it the next sighting
// is refused, by which AWS is asked again.
func TestSeenOnWhatIsOff(t *testing.T) {
	w := open(t)
	w.device("d1")
	c := foreign(t, "c", certificate.Active)
	w.ok(w.Certificates().Register(w.ctx, "d1", c))
	w.clock.add(time.Hour)
	seen := certificate.Sighting{Device: "d1", Certificate: c.ID, At: w.clock.Now(), Evidence: certificate.Connection}
	w.ok(w.Certificates().Seen(w.ctx, seen))
	off := c
	off.Standing = certificate.Inactive
	if got := w.found(off, w.clock.Now()); got != store.FoundOff {
		t.Fatalf("found %q", got)
	}
	seen.At = w.clock.Now().Add(time.Second)
	w.is(w.Certificates().Seen(w.ctx, seen), certificate.ErrNotActive)
}

// TestRetiredWhileOff: what another place had made INACTIVE, and what was retired
// then, is not brought back.
func TestRetiredWhileOff(t *testing.T) {
	w := open(t)
	w.device("d1")
	c := foreign(t, "c", certificate.Active)
	w.ok(w.Certificates().Register(w.ctx, "d1", c))
	w.clock.add(time.Hour)
	off := c
	off.Standing = certificate.Inactive
	if got := w.found(off, w.clock.Now()); got != store.FoundOff {
		t.Fatalf("found %q", got)
	}
	w.ok(w.Certificates().Retire(w.ctx, removal("d1", c.ID, certificate.Deactivate)))
	w.clock.add(time.Hour)
	if got := w.found(c, w.clock.Now()); got != store.FoundLeft || w.standingOf(c) != certificate.Inactive {
		t.Errorf("what was retired is %s: %q", w.standingOf(c), got)
	}
}

// TestFoundUnread: that it cannot be told whether a certificate's CA is trusted does
// not leave it out, as if its CA were retired: SQLite may have ended the transaction
// by that, and with it what others write.
func TestFoundUnread(t *testing.T) {
	w := open(t)
	c := foreign(t, "c", certificate.Active)
	w.ok(w.Write(w.ctx, fmt.Sprintf(`INSERT INTO authorities VALUES ('a', '%s', 'line', x'ff', 1, 2)`, c.Issuer)))
	if got, err := w.Certificates().Found(w.ctx, c, w.clock.Now(), func() bool { return false }); err == nil {
		t.Errorf("found %q", got)
	}
}

// TestFoundTooLate: what was read before something newer happened changes
// nothing, nor what is being changed, nor an open rotation's certificate.
func TestFoundTooLate(t *testing.T) {
	off := func(c certificate.Certificate) certificate.Certificate {
		c.Standing = certificate.Inactive
		return c
	}
	t.Run("registered since", func(t *testing.T) {
		w := open(t)
		w.device("d1")
		read := w.clock.Now()
		w.clock.add(10 * time.Minute)
		c := foreign(t, "c", certificate.Active)
		w.ok(w.Certificates().Register(w.ctx, "d1", c))
		if got := w.found(off(c), read); got != store.FoundLeft || w.standingOf(c) != certificate.Active {
			t.Errorf("%q, and it is %s", got, w.standingOf(c))
		}
	})
	t.Run("being changed", func(t *testing.T) {
		w := open(t)
		w.device("d1")
		c := foreign(t, "c", certificate.Active)
		w.ok(w.Certificates().Register(w.ctx, "d1", c))
		w.clock.add(time.Hour)
		w.ok(w.Unsettled().Begin(w.ctx, store.Mark{Certificate: c.ID, Device: "d1"}))
		if got := w.found(off(c), w.clock.Now()); got != store.FoundLeft || w.standingOf(c) != certificate.Active {
			t.Errorf("%q, and it is %s", got, w.standingOf(c))
		}
		w.ok(w.Unsettled().End(w.ctx, c.ID))
		if got := w.found(off(c), w.clock.Now()); got != store.FoundOff {
			t.Errorf("after that: %q", got)
		}
	})
	t.Run("an open rotation's", func(t *testing.T) {
		w := open(t)
		w.device("d1")
		w.register("d1", "old")
		r, c := w.vend("d1", "new", nil)
		w.clock.add(time.Hour)
		if got := w.found(off(c), w.clock.Now()); got != store.FoundLeft {
			t.Errorf("of rotation %d, %s: %q", r.Number, r.State, got)
		}
	})
}

// TestFoundNobodys: a certificate that nobody holds is taken in, found again
// after a replay, and one of the first device that has it then.
func TestFoundNobodys(t *testing.T) {
	copied, dir := filepath.Join(t.TempDir(), "copy.db"), filepath.Join(t.TempDir(), "audit")
	w := open(t, func(c *store.Config) { c.AuditDir = dir })
	w.device("d1")
	held := foreign(t, "held", certificate.Active)
	w.ok(w.Certificates().Register(w.ctx, "d1", held))
	_, err := w.Copy(w.ctx, copied)
	w.ok(err)
	w.clock.add(time.Hour)
	orphan, off := foreign(t, "orphan", certificate.Active), held
	off.Standing = certificate.Inactive
	if got := w.found(orphan, w.clock.Now()); got != store.FoundNew {
		t.Errorf("got %q", got)
	}
	made := foreign(t, "made", certificate.Inactive)
	made.Created = w.clock.Now()
	if got := w.found(made, w.clock.Now()); got != store.FoundLeft {
		t.Errorf("one that somebody may be about to use: %q", got)
	}
	if got := w.found(off, w.clock.Now()); got != store.FoundOff {
		t.Errorf("got %q", got)
	}
	w.ok(w.Close())

	s, err := store.Open(context.Background(), store.Config{Path: copied, Instance: "two", Now: w.clock.Now})
	w.ok(err)
	t.Cleanup(func() { s.Close() })
	if _, err := s.Replay(w.ctx, dir); err != nil {
		t.Fatal(err)
	}
	for c, want := range map[certificate.ID]certificate.Standing{orphan.ID: certificate.Active, held.ID: certificate.Inactive} {
		got, err := s.Certificates().Certificate(w.ctx, c)
		if err != nil || got.Standing != want {
			t.Errorf("after the replay: %s, %v; want %s", got.Standing, err, want)
		}
	}
	if holders, err := s.Certificates().Holders(w.ctx, orphan.ID); err != nil || len(holders) > 0 {
		t.Errorf("the orphan is %v's, %v", holders, err)
	}
	w.ok(s.Certificates().Register(w.ctx, "d1", orphan))
	if holders, err := s.Certificates().Holders(w.ctx, orphan.ID); err != nil || len(holders) != 1 {
		t.Errorf("the certificate is %v's, %v", holders, err)
	}
	if is, err := s.Certificates().IsElsewhere(w.ctx, held.ID); err != nil || !is {
		t.Errorf("nobody remembers why it is INACTIVE: %v", err)
	}
}

// TestTodo: what is to be read survives a restart, with the position.
func TestTodo(t *testing.T) {
	type state struct{ At int64 }
	kept := int64(0)
	position := func(n int64) store.Position {
		return store.Position{Number: n, State: state{n}, Kept: func() { kept = n }}
	}
	w := open(t)
	todo := []store.Todo{{What: store.TodoCertificate, Name: "c"}, {What: store.TodoDevice, Name: "d"}, {What: store.TodoPerhaps, Name: "p"}}
	for n := range int64(2) {
		w.ok(w.Sync().Add(w.ctx, todo, position(n+1)))
	}
	for _, n := range []int64{0, 1, 2, 4} { // of those that do not follow the second
		if err := w.Sync().Drop(w.ctx, position(n)); !errors.Is(err, store.ErrOvertaken) || kept != 2 {
			t.Errorf("position %d after the second: %v; kept is %d", n, err, kept)
		}
	}
	w.reopen()
	next := must[[]store.Todo](t)(w.Sync().Next(w.ctx, 10))
	if len(next) != 1 || next[0].Name != "d" {
		t.Errorf("next is %v", next)
	}
	w.ok(w.Sync().Done(w.ctx, nil, next, position(3)))
	if next = must[[]store.Todo](t)(w.Sync().Next(w.ctx, 10)); len(next) != 1 || next[0].Tries != 1 {
		t.Errorf("next is %v", next)
	}
	w.ok(w.Sync().Decide(w.ctx, true, position(4)))
	for n, what := range []int{2, 1} { // devices, then certificates
		next = must[[]store.Todo](t)(w.Sync().Next(w.ctx, 10))
		if len(next) != what {
			t.Errorf("next is %v", next)
		}
		w.ok(w.Sync().Done(w.ctx, next, nil, position(int64(5+n))))
	}
	var at state
	number := must[int64](t)(w.Sync().Position(w.ctx, &at))
	left := must[map[string]int](t)(w.Sync().Left(w.ctx))
	if at.At != 6 || number != 6 || len(left) > 0 {
		t.Errorf("at %v, left %v", at, left)
	}
	unmet := must[[]registry.DeviceID](t)(w.Devices().Unmet(w.ctx, []registry.DeviceID{w.device("here"), "there"}))
	if len(unmet) != 1 || unmet[0] != "there" {
		t.Errorf("unmet %v", unmet)
	}
}
