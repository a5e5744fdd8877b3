package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

var errKilled = errors.New("killed")

// many runs fn for 0 to n-1, some at a time.
func (w *world) many(n int, fn func(int) error) {
	w.t.Helper()
	work := make(chan int)
	errs := make([]error, n)
	var all sync.WaitGroup
	for range min(n, 64) {
		all.Go(func() {
			for i := range work {
				errs[i] = fn(i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		w.t.Fatal(err)
	}
}

// kill goes on with the files as a process that is killed now leaves them.
func (w *world) kill() {
	w.t.Helper()
	dir := w.t.TempDir()
	w.ok(copyFiles(w.cfg, dir))
	w.goOn(dir)
}

// goOn closes what is left of the store and opens its files in another place.
func (w *world) goOn(dir string) {
	w.t.Helper()
	w.Close() //nolint:errcheck // it was killed
	w.cfg.Path = filepath.Join(dir, "store.db")
	if w.cfg.AuditDir != "" {
		w.cfg.AuditDir = filepath.Join(dir, "audit")
	}
	w.open()
}

func copyFiles(cfg store.Config, dir string) error {
	for _, suffix := range []string{"", "-wal"} {
		text, err := os.ReadFile(cfg.Path + suffix)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "store.db"+suffix), text, 0o600); err != nil {
			return err
		}
	}
	if cfg.AuditDir == "" {
		return nil
	}
	return os.CopyFS(filepath.Join(dir, "audit"), os.DirFS(cfg.AuditDir))
}

// killAt has the store die at the nth point of a commit: odd ones are before
// the commit, even ones after it. What is on disk then is copied to dir.
func (w *world) killAt(n int, dir string) (killed func() bool) {
	w.t.Helper()
	points, died := 0, false
	w.ok(w.OnCommit(w.ctx, func(bool) error {
		if points++; points != n {
			return nil
		}
		died = true
		return errors.Join(errKilled, copyFiles(w.cfg, dir))
	}))
	return func() bool { return died }
}

// life takes a device through two rotations, from whatever point an earlier
// life came to; every step is taken only if it was not.
func (w *world) life() error {
	const id = registry.DeviceID("d1")
	first := fake("first")
	group := jobs.New("group", protocol.DefaultTopics())
	for _, step := range []func() error{
		func() error { return w.Devices().Add(w.ctx, id, map[string]string{"site": "A"}) },
		func() error { return w.make(id, first) },
		func() error { _, err := w.Jobs().Ensure(w.ctx, group); return err },
		func() error { return w.Group().Add(w.ctx, id) },
		func() error { _, err := w.Jobs().Release(w.ctx, 10); return err },
		func() error { return w.use(id, first.ID) },
		func() error { return w.rotate(id, "k1", first.ID) },
		func() error { return w.rotate(id, "k2", fake("k1").ID) },
		func() error { return w.Group().Remove(w.ctx, id, time.Time{}) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) rotate(id registry.DeviceID, key string, old certificate.ID) error {
	h, err := w.Journal().Find(w.ctx, id)
	if err != nil {
		return err
	}
	c := fake(key)
	r := h.Of(c.ID)
	if r == nil || !r.State.Ready() {
		if r, err = w.vended(h, c, old); err != nil {
			return err
		}
	}
	if err := w.use(id, c.ID); err != nil {
		return err
	}
	if r.State == rotation.Vended {
		r.State, r.ProvenAt, r.Behind = rotation.Finished, w.clock.Now(), []rotation.Step{rotation.Attributes}
		done, err := w.Journal().Advance(w.ctx, rotation.Change{Rotation: *r, Retirements: []rotation.Retirement{{
			Device: id, Certificate: old, Rotation: r.Number, Mode: certificate.Delete, Due: w.clock.Now(),
		}}})
		if err != nil {
			return err
		}
		*r = done
	}
	if err := w.sweep(id, old, r.Number); err != nil {
		return err
	}
	if len(r.Behind) == 0 {
		return nil
	}
	_, err = w.Journal().Advance(w.ctx, rotation.Change{Rotation: r.Done(rotation.Attributes)})
	return err
}

// make registers a certificate, unless an earlier life has.
func (w *world) make(id registry.DeviceID, c certificate.Certificate) error {
	known, err := w.Certificates().List(w.ctx, certificate.Query{Key: c.Key})
	if err != nil || len(known) > 0 {
		return err
	}
	return w.Certificates().Register(w.ctx, id, c)
}

// use has the device seen on a certificate, unless an earlier life has done
// with it.
func (w *world) use(id registry.DeviceID, c certificate.ID) error {
	err := w.seen(id, c, w.clock.add(time.Second))
	if errors.Is(err, certificate.ErrNotHeld) || errors.Is(err, certificate.ErrNotActive) {
		return nil
	}
	return err
}

func (w *world) vended(h rotation.History, c certificate.Certificate, old certificate.ID) (*rotation.Rotation, error) {
	const id = registry.DeviceID("d1")
	var err error
	r := rotation.Rotation{
		Device: id, Number: h.Next(), State: rotation.Intended, Key: c.Key, Over: old, Opened: w.clock.Now(),
		Lease: rotation.Lease{Instance: "one", Until: w.clock.Now().Add(time.Minute)},
	}
	if current := h.Current(); current != nil && current.Key == c.Key {
		r = *current
	} else if r, err = w.Journal().Open(w.ctx, r, nil); err != nil {
		return nil, err
	}
	r.State, r.Certificate = rotation.Issued, c.ID
	if r, err = w.Journal().Advance(w.ctx, rotation.Change{Rotation: r, Certificate: &c}); err != nil {
		return nil, err
	}
	if err := w.Certificates().Register(w.ctx, id, c); err != nil {
		return nil, err
	}
	r.State, r.VendedAt, r.Lease = rotation.Vended, w.clock.Now(), rotation.Lease{}
	r, err = w.Journal().Advance(w.ctx, rotation.Change{Rotation: r})
	return &r, err
}

func (w *world) sweep(id registry.DeviceID, old certificate.ID, number int64) error {
	work, err := w.Journal().Due(w.ctx, rotation.Horizon{Now: w.clock.Now()})
	if err != nil {
		return err
	}
	for _, r := range work.Retirements {
		for _, mode := range []certificate.Mode{certificate.Deactivate, certificate.Delete} {
			if err := w.Certificates().Retire(w.ctx, removal(id, r.Certificate, mode)); err != nil {
				return err
			}
		}
		r.Done = w.clock.Now()
		if err := w.Journal().Note(w.ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// sound checks what must hold of a store at any moment.
func (w *world) sound() {
	w.t.Helper()
	if _, err := w.Audit().Verify(w.ctx); err != nil {
		w.t.Error(err)
	}
	for what, text := range map[string]string{
		"devices with two open rotations": `SELECT count(*) FROM (SELECT 1 FROM rotations
			WHERE state IN ('intended', 'issued', 'vended', 'acknowledged', 'proven') GROUP BY device HAVING count(*) > 1)`,
		"vended rotations without their certificate": `SELECT count(*) FROM rotations r
			WHERE state NOT IN ('intended', 'issued', 'abandoned') AND NOT EXISTS (SELECT 1 FROM holdings h WHERE h.device = r.device AND h.certificate = r.certificate)`,
		"superseded rotations without a successor": `SELECT count(*) FROM rotations r
			WHERE state = 'superseded' AND NOT EXISTS (SELECT 1 FROM rotations n WHERE n.device = r.device AND n.number > r.number)`,
		"retirements whose rotation is not proven": `SELECT count(*) FROM retirements t
			JOIN rotations r ON r.device = t.device AND r.number = t.rotation WHERE r.proven_at = 0`,
		"finished rotations without their retirement": `SELECT count(*) FROM rotations r
			WHERE state = 'finished' AND NOT EXISTS (SELECT 1 FROM retirements t WHERE t.device = r.device AND t.rotation = r.number)`,
		"wrong counts of holders": `SELECT count(*) FROM certificates c
			WHERE holders <> (SELECT count(*) FROM holdings h WHERE h.certificate = c.id AND h.detached = 0)`,
		"holdings with another standing or end than their certificate": `SELECT count(*) FROM holdings h JOIN certificates c ON c.id = h.certificate
			WHERE h.detached = 0 AND (h.standing <> c.standing OR h.not_after <> c.not_after)`,
		"wrong tallies of rotations": `SELECT count(*) FROM tallies t WHERE what = 'rotation'
			AND n <> (SELECT count(*) FROM rotations r WHERE r.state = t.state)`,
		"wrong tallies of executions": `SELECT count(*) FROM tallies t WHERE what <> 'rotation'
			AND n <> (SELECT count(*) FROM executions e WHERE e.job = t.what AND e.status = t.state)`,
		"certificates without an event": `SELECT count(*) FROM certificates c
			WHERE NOT EXISTS (SELECT 1 FROM audit a WHERE a.certificate = c.id AND a.kind = 'certificate.registered')`,
		"rotations whose state has no event": `SELECT count(*) FROM rotations r
			WHERE NOT EXISTS (SELECT 1 FROM audit a WHERE a.device = r.device AND a.kind = 'rotation.state'
			AND a.detail ->> 'rotation' = r.number AND a.detail ->> 'state' = r.state)`,
		"devices that held a certificate and have none that is active": `SELECT count(*) FROM (SELECT DISTINCT device FROM holdings) d
			WHERE NOT EXISTS (SELECT 1 FROM holdings h JOIN certificates c ON c.id = h.certificate
			WHERE h.device = d.device AND h.detached = 0 AND c.standing = 'ACTIVE')`,
	} {
		if n := must[int](w.t)(store.Query[int](w.ctx, w.Store, text)); n != 0 {
			w.t.Errorf("%d %s", n, what)
		}
	}
}

func TestKilledAtEveryWrite(t *testing.T) {
	step := 2
	if backendtest.RaceDetector {
		step = 10
	}
	for name, c := range map[string]struct {
		first  int // odd: before each commit; even: after it, without an answer
		change func(*store.Config)
	}{
		"postponed":      {1, func(*store.Config) {}},
		"durable intent": {2, durable},
	} {
		t.Run(name, func(t *testing.T) {
			for n := c.first; ; n += step {
				w := open(t, c.change, func(cfg *store.Config) { cfg.AuditDir = filepath.Join(t.TempDir(), "audit") })
				dir := t.TempDir()
				killed := w.killAt(n, dir)
				err := w.life()
				if !killed() {
					w.ok(err)
					if n < 20 {
						t.Fatalf("a life of %d points", n-1)
					}
					return
				}
				w.is(err, errKilled)
				w.goOn(dir)
				w.sound()
				if err := w.life(); err != nil {
					t.Fatalf("killed at point %d, the next life: %v", n, err)
				}
				w.sound()
				w.lived(n)
				w.ok(w.Close())
			}
		})
	}
}

// lived checks how the life of the device ends.
func (w *world) lived(n int) {
	w.t.Helper()
	held := w.held("d1")
	if len(held) != 1 || held[0].ID != fake("k2").ID || held[0].Standing != certificate.Active {
		w.t.Errorf("killed at point %d: the device holds %d certificates, %+v", n, len(held), held)
	}
	states := []rotation.State{}
	for _, r := range w.find("d1").Rotations {
		states = append(states, r.State)
	}
	if !slices.Equal(states, []rotation.State{rotation.Finished, rotation.Finished}) {
		w.t.Errorf("killed at point %d: rotations are %v", n, states)
	}
}

func TestManyDevicesAtOnce(t *testing.T) {
	w := open(t, func(cfg *store.Config) { cfg.AuditDir = filepath.Join(t.TempDir(), "audit") })
	const devices = 100
	w.many(devices, func(i int) error {
		id := registry.DeviceID(fmt.Sprintf("d%03d", i))
		first := fake("first" + string(id))
		if err := w.Certificates().Register(w.ctx, id, first); err != nil {
			return err
		}
		r, err := w.Journal().Open(w.ctx, rotation.Rotation{
			Device: id, Number: 1, State: rotation.Intended, Opened: w.clock.Now(),
			Lease: rotation.Lease{Instance: "one", Until: w.clock.Now().Add(time.Minute)},
		}, nil)
		if err != nil {
			return err
		}
		c := fake(string(id))
		r.State, r.Certificate = rotation.Vended, c.ID
		if r, err = w.Journal().Advance(w.ctx, rotation.Change{Rotation: r, Certificate: &c}); err != nil {
			return err
		}
		if err := w.seen(id, c.ID, w.clock.add(time.Millisecond)); err != nil {
			return err
		}
		if _, err := w.Journal().Find(w.ctx, id); err != nil {
			return err
		}
		r.State, r.ProvenAt = rotation.Finished, w.clock.Now()
		if _, err := w.Journal().Advance(w.ctx, rotation.Change{Rotation: r, Retirements: []rotation.Retirement{
			{Device: id, Certificate: first.ID, Rotation: 1, Mode: certificate.Deactivate, Due: start},
		}}); err != nil {
			return err
		}
		return w.Certificates().Retire(w.ctx, removal(id, first.ID, certificate.Deactivate))
	})
	w.sound()
	if w.Commits() >= 5*devices {
		t.Errorf("%d commits for %d operations: they do not share them", w.Commits(), 5*devices)
	}
}
