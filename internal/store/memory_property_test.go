package store_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// TestMemoryIsTheDatabase does anything to a few devices, in any order, one
// after the other or in one commit, and holds what is remembered against the
// database after each, of the store and of a copy that follows it.
func TestMemoryIsTheDatabase(t *testing.T) {
	w := open(t)
	follows := w.share("follows", w.shadow)
	lives, checked, done := 0, 0, map[string]int{}
	rapid.Check(t, func(draw *rapid.T) {
		lives++
		l := &life{world: w, draw: draw, name: fmt.Sprint("life", lives), done: done}
		l.begin()
		for range pick(draw, "steps", 5, 15, 25) {
			l.read(w, draw)
			l.step()
			n, err := w.CheckMemory(w.ctx)
			if err != nil {
				draw.Fatal(err)
			}
			checked += n
		}
		l.read(follows, draw)
		follows.follow(w.ctx)
		if _, err := follows.CheckMemory(w.ctx); err != nil {
			draw.Fatalf("the copy: %v", err)
		}
	})
	t.Logf("%d lives, %d times something was remembered, done: %v", lives, checked, done)
	for name := range (&life{}).acts() {
		if done[name] == 0 {
			t.Errorf("%s was never done", name)
		}
	}
}

// life is what is done to three devices and five certificates.
type life struct {
	*world
	draw *rapid.T
	name string
	mu   sync.Mutex
	done map[string]int
}

// begin has two devices share a certificate, and one of them rotate.
func (l *life) begin() {
	a, b, shared, c := registry.DeviceID(l.name+"-a"), registry.DeviceID(l.name+"-b"), fake(l.name+"-1"), fake(l.name+"-2")
	for _, id := range []registry.DeviceID{a, b} {
		l.ok(l.Certificates().Register(l.ctx, id, shared))
		l.ok(l.seen(id, shared.ID, l.clock.Now()))
	}
	l.ok(l.vends(a, c))
}

func pick[T any](draw *rapid.T, label string, all ...T) T {
	return rapid.SampledFrom(all).Draw(draw, label)
}

func (l *life) device() registry.DeviceID {
	return registry.DeviceID(l.name + pick(l.draw, "device", "-a", "-b", "-c"))
}

func (l *life) certificate() certificate.Certificate {
	c := fake(l.name + pick(l.draw, "certificate", "-1", "-2", "-3", "-4", "-5"))
	c.Standing = pick(l.draw, "standing", certificate.Active, certificate.Active, certificate.Inactive)
	c.Kind = pick(l.draw, "kind", certificate.Rotated, certificate.Adopted, certificate.Packaged)
	c.Policies = pick(l.draw, "policies", nil, []string{}, []string{"p", "q"})
	c.Chain = pick(l.draw, "chain", nil, [][]byte{}, c.Chain)
	c.Created = pick(l.draw, "created", time.Time{}, l.clock.Now().In(time.FixedZone("here", 3600)))
	return c
}

// read asks for some of what is remembered.
func (l *life) read(w *world, draw *rapid.T) {
	for _, of := range []string{"-a", "-b", "-c"} {
		id := registry.DeviceID(l.name + of)
		if !rapid.Bool().Draw(draw, "read") {
			continue
		}
		_, unknown := w.Devices().Device(w.ctx, id)
		h, err := w.Journal().Find(w.ctx, id)
		held, also := w.Certificates().Held(w.ctx, id)
		_, frozen := w.Brakes().Frozen(w.ctx)
		if err := errors.Join(err, also, frozen); err != nil || unknown != nil && !errors.Is(unknown, registry.ErrUnknown) {
			draw.Fatal(err, unknown)
		}
		for i := range h.Rotations { // it is the caller's own
			h.Rotations[i].State = "scribbled"
			for n := range h.Rotations[i].Held {
				h.Rotations[i].Held[n] = "scribbled"
			}
		}
		for i := range held {
			held[i].Standing = "scribbled"
			for n := range held[i].Policies {
				held[i].Policies[n] = "scribbled"
			}
		}
	}
}

// step does something, or two things in one commit. What is refused is refused.
func (l *life) step() {
	l.clock.add(time.Duration(pick(l.draw, "minutes", 0, 1, 3)) * time.Minute)
	first := l.act()
	if pick(l.draw, "alone", true, true, false) {
		first()
		return
	}
	second := l.act()
	begun, waits := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		l.Carry(l.ctx, "", func() error { close(begun); <-waits; return nil }) //nolint:errcheck // it does nothing
	})
	<-begun
	all.Go(first)
	all.Go(second)
	for range 20 {
		if l.Queued() == 2 {
			break
		}
		time.Sleep(time.Millisecond) // some ask for nothing, or read first
	}
	close(waits)
	all.Wait()
}

func (l *life) act() func() {
	acts := l.acts()
	var names []string
	for name := range acts {
		names = append(names, name)
	}
	slices.Sort(names)
	name := pick(l.draw, "act", names...)
	do := acts[name]()
	return func() {
		if err := do(); err == nil {
			l.mu.Lock()
			l.done[name]++
			l.mu.Unlock()
		}
	}
}

// acts are what there is to do: each draws what it is done to, and returns how.
func (l *life) acts() map[string]func() func() error {
	acts := map[string]func() func() error{}
	l.actsOfDevices(acts)
	l.actsOfCertificates(acts)
	l.actsOfRotations(acts)
	return acts
}

func (l *life) actsOfDevices(acts map[string]func() func() error) {
	acts["add"] = func() func() error {
		id := l.device()
		return func() error { return l.Devices().Add(l.ctx, id, map[string]string{"a": "1"}) }
	}
	acts["remove"] = func() func() error {
		id := l.device()
		return func() error { return l.Devices().Remove(l.ctx, id) }
	}
	acts["attributes"] = func() func() error {
		id, value := l.device(), pick(l.draw, "value", "", "1", "2")
		return func() error { return l.Devices().SetAttributes(l.ctx, id, map[string]string{"a": value}) }
	}
	acts["block"] = func() func() error {
		id, blocked := l.device(), rapid.Bool().Draw(l.draw, "blocked")
		return func() error { return l.Devices().Block(l.ctx, id, blocked) }
	}
	acts["freeze"] = func() func() error {
		frozen := rapid.Bool().Draw(l.draw, "frozen")
		return func() error {
			_, err := l.Brakes().SetFrozen(l.ctx, func(f *rotation.Freeze) { f.Vending = frozen })
			return err
		}
	}
	acts["statement"] = func() func() error {
		text := pick(l.draw, "text", `UPDATE holdings SET attached = attached + 1`, `UPDATE certificates SET subject = subject || '.'`,
			`UPDATE rotations SET profile = profile || '.'`, `UPDATE attributes SET value = value || '.'`,
			`DELETE FROM rotations WHERE state = 'superseded'`, `UPDATE holdings SET detached = 1 WHERE seen = 0`)
		return func() error { return l.Write(l.ctx, text) }
	}
	acts["rolled back"] = func() func() error {
		text := pick(l.draw, "text", `UPDATE holdings SET seen = 7`, `UPDATE rotations SET nonce = 'x'`, `DELETE FROM devices`)
		gone := errors.New("rolled back")
		return func() error {
			if err := l.Carry(l.ctx, text, func() error { return gone }); !errors.Is(err, gone) {
				return fmt.Errorf("%v, want %v", err, gone)
			}
			return nil
		}
	}
}

func (l *life) actsOfCertificates(acts map[string]func() func() error) {
	acts["register"] = func() func() error {
		id, c := l.device(), l.certificate()
		return func() error { return l.Certificates().Register(l.ctx, id, c) }
	}
	acts["activate"] = func() func() error {
		id, c := l.device(), l.certificate()
		return func() error { return l.Certificates().Activate(l.ctx, id, c.ID) }
	}
	acts["seen"] = func() func() error {
		seen := certificate.Sighting{
			Device: l.device(), Certificate: l.certificate().ID, At: l.clock.Now(), Evidence: certificate.Connection,
			Live: rapid.Bool().Draw(l.draw, "live"),
		}
		return func() error { return l.Certificates().Seen(l.ctx, seen) }
	}
	acts["retire"] = func() func() error {
		r := removal(l.device(), l.certificate().ID, pick(l.draw, "mode", certificate.Deactivate, certificate.Delete))
		return func() error { return l.Certificates().Retire(l.ctx, r) }
	}
	acts["revoke"] = func() func() error {
		r := certificate.Revocation{
			Certificate: l.certificate().ID,
			Allowed:     func(registry.DeviceID, []certificate.Holding) error { return nil },
		}
		return func() error { return l.Certificates().Revoke(l.ctx, r) }
	}
	acts["found"] = func() func() error {
		c, read := l.certificate(), l.clock.Now().Add(24*time.Hour)
		return func() error {
			_, err := l.Certificates().Found(l.ctx, c, read, func() bool { return false })
			return err
		}
	}
	acts["adopt"] = func() func() error {
		id, c := l.device(), l.certificate()
		lacks := store.Restoration{Since: start.AddDate(-1, 0, 0), At: start.AddDate(1, 0, 0)}
		return func() error { _, err := l.Certificates().Adopt(l.ctx, id, c, lacks); return err }
	}
}

func (l *life) actsOfRotations(acts map[string]func() func() error) {
	acts["open"] = func() func() error {
		id, key, gives := l.device(), l.certificate().Key, rapid.Bool().Draw(l.draw, "gives way")
		return func() error { return l.opens(id, key, gives) }
	}
	acts["vend"] = func() func() error {
		id, c := l.device(), l.certificate()
		return func() error { return l.vends(id, c) }
	}
	acts["advance"] = func() func() error {
		id, c, which := l.device(), l.certificate(), pick(l.draw, "which", 0, 0, 0, 1, 2)
		state := pick(l.draw, "state", rotation.Issued, rotation.Vended, rotation.Vended, rotation.Acknowledged, rotation.Proven,
			rotation.Finished, rotation.Stale, rotation.Abandoned)
		leased, registers := rapid.Bool().Draw(l.draw, "leased"), rapid.Bool().Draw(l.draw, "registers")
		return func() error {
			r, err := l.newest(id, which)
			if err != nil {
				return err
			}
			return l.advances(r, c, state, leased, registers)
		}
	}
	acts["witness"] = func() func() error {
		id, live := l.device(), rapid.Bool().Draw(l.draw, "live")
		return func() error {
			r, err := l.newest(id, 0)
			if err != nil {
				return err
			}
			now := l.clock.Now()
			r.State, r.Evidence, r.ProvenAt = rotation.Proven, certificate.Connection, now
			seen := certificate.Sighting{Device: id, Certificate: r.Certificate, At: now, Evidence: r.Evidence, Live: live}
			_, err = l.Certificates().Witness(l.ctx, seen, rotation.Change{Rotation: r})
			return err
		}
	}
	acts["undo"] = func() func() error {
		id, c := l.device(), l.certificate()
		return func() error {
			r, err := l.newest(id, 0)
			if err == nil {
				err = l.advances(r, c, rotation.Finished, true, false) // which retires it
			}
			if err != nil {
				return err
			}
			if r, err = l.newest(id, 0); err != nil {
				return err
			}
			_, err = l.Journal().Advance(l.ctx, undoing(r, l.clock.Now(), c.ID))
			return err
		}
	}
	acts["prune"] = func() func() error {
		return func() error { _, err := l.Journal().Prune(l.ctx, l.clock.Now().Add(time.Hour), 10); return err }
	}
	acts["void"] = func() func() error {
		return func() error { _, err := l.Journal().VoidLeases(l.ctx); return err }
	}
}

func (l *life) newest(id registry.DeviceID, which int) (rotation.Rotation, error) {
	h, err := l.Journal().Find(l.ctx, id)
	if err == nil && which >= len(h.Rotations) {
		err = errors.New("it has none")
	}
	if err != nil {
		return rotation.Rotation{}, err
	}
	return h.Rotations[which], nil
}

func (l *life) opens(id registry.DeviceID, key certificate.KeyID, gives bool) error {
	h, err := l.Journal().Find(l.ctx, id)
	if err != nil {
		return err
	}
	now := l.clock.Now()
	next := rotation.Rotation{
		Device: id, Number: h.Next(), State: rotation.Intended, Key: key, Opened: now, Nonce: "nonce",
		Held: []certificate.ID{"a"}, Lease: rotation.Lease{Instance: l.cfg.Instance, Until: now.Add(rotation.LeaseTime)},
	}
	var before *rotation.Rotation
	if gives {
		before = h.Current()
	}
	_, err = l.Journal().Open(l.ctx, next, before)
	return err
}

// vends does what vending does for a new key.
func (l *life) vends(id registry.DeviceID, c certificate.Certificate) error {
	if err := l.opens(id, c.Key, true); err != nil {
		return err
	}
	r, err := l.newest(id, 0)
	if err != nil {
		return err
	}
	if err := l.advances(r, c, rotation.Issued, true, true); err != nil {
		return err
	}
	if r, err = l.newest(id, 0); err != nil {
		return err
	}
	return errors.Join(l.Certificates().Register(l.ctx, id, c), l.advances(r, c, rotation.Vended, false, false))
}

func (l *life) advances(r rotation.Rotation, c certificate.Certificate, state rotation.State, leased, registers bool) error {
	now := l.clock.Now()
	r.State, r.VendedAt = state, now
	if registers {
		r.Certificate = c.ID
	}
	if !leased {
		r.Lease = rotation.Lease{}
	}
	change := rotation.Change{Rotation: r}
	if registers {
		change.Certificate = &c
	}
	if state == rotation.Finished {
		change.Rotation.ProvenAt, change.Rotation.ClosedAt = now, now
		change.Rotation.Behind = []rotation.Step{rotation.Attributes, rotation.LeaveGroup}
		if leased {
			change.Ending = &rotation.Ending{Attributes: map[string]string{"certificateId": string(c.ID)}, Leaves: now}
		}
		change.Retirements = []rotation.Retirement{{
			Device: r.Device, Certificate: c.ID, Rotation: r.Number, Mode: certificate.Deactivate, Due: now, Done: now,
		}}
	}
	_, err := l.Journal().Ending().Advance(l.ctx, change)
	return err
}
