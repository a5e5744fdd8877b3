package store_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// What the store keeps beside what it is of, as it is and as it is counted anew:
// no row is in one and not in the other.
var kept = map[string][2]string{
	"holders of certificates": {
		`SELECT id, holders FROM certificates`,
		`SELECT id, (SELECT count(*) FROM holdings WHERE certificate = id AND detached = 0) FROM certificates`,
	},
	"what stands beside a holding": {
		`SELECT device, certificate, standing, not_after, issuer, chain, key_type, not_before, shared
			FROM holdings WHERE detached = 0`,
		`SELECT h.device, c.id, c.standing, c.not_after, c.issuer, c.chain, c.key_type, c.not_before, c.holders > 1
			FROM holdings h JOIN certificates c ON c.id = h.certificate WHERE h.detached = 0`,
	},
	"tallies of rotations": {
		`SELECT state, n FROM tallies WHERE what = 'rotation' AND n <> 0`,
		`SELECT state, count(*) FROM rotations GROUP BY state`,
	},
}

// wantKept holds what is kept against what it is counted from.
func wantKept(t *testing.T, s *store.Store) {
	t.Helper()
	for what, texts := range kept {
		for _, way := range [2]string{`SELECT count(*) FROM (%s EXCEPT %s)`, `SELECT count(*) FROM (%[2]s EXCEPT %[1]s)`} {
			off := must[int](t)(store.Query[int](t.Context(), s, fmt.Sprintf(way, texts[0], texts[1])))
			if off != 0 {
				t.Fatalf("%s: %d are not what they are counted to be", what, off)
			}
		}
	}
}

// chance is a fleet to which anything may happen, to a few devices and
// certificates that they share.
type chance struct {
	*world
	rand    *rand.Rand
	devices []registry.DeviceID
	pool    []certificate.Certificate
	did     map[string]int // what was not refused
}

func (c *chance) device() registry.DeviceID            { return c.devices[c.rand.IntN(len(c.devices))] }
func (c *chance) certificate() certificate.Certificate { return c.pool[c.rand.IntN(len(c.pool))] }

// rotates opens a rotation for a certificate, over the one that is open, and
// takes it as far as chance has it.
func (c *chance) rotates(id registry.DeviceID, made certificate.Certificate) error {
	r, err := c.Journal().Open(c.ctx, c.intended(id, string(made.ID)), c.find(id).Current())
	if err != nil {
		return err
	}
	for _, state := range []rotation.State{rotation.Vended, rotation.Acknowledged, rotation.Proven, rotation.Finished}[:c.rand.IntN(5)] {
		r.State, r.Certificate, r.Lease = state, made.ID, rotation.Lease{}
		change := rotation.Change{}
		switch state {
		case rotation.Vended:
			r.VendedAt, change.Certificate = c.clock.Now(), &made
		case rotation.Finished:
			r.ProvenAt, r.ClosedAt = c.clock.Now(), c.clock.Now()
		}
		change.Rotation = r
		if r, err = c.Journal().Advance(c.ctx, change); err != nil {
			return err
		}
	}
	return nil
}

func (c *chance) happens() {
	id, made := c.device(), c.certificate()
	made.Standing = []certificate.Standing{certificate.Active, certificate.Active, certificate.Inactive}[c.rand.IntN(3)]
	made.Policies = []string{"one", "two"}[:c.rand.IntN(3)]
	var what string
	var err error
	switch n := c.rand.IntN(20); {
	case n < 6:
		what, err = "register", c.Certificates().Register(c.ctx, id, made)
	case n < 9:
		what, err = "rotate", c.rotates(id, made)
	case n < 10:
		what, err = "activate", c.Certificates().Activate(c.ctx, id, made.ID)
	case n < 12:
		what, err = "deactivate", c.Certificates().Retire(c.ctx, removal(id, made.ID, certificate.Deactivate))
	case n < 14:
		what, err = "delete", c.Certificates().Retire(c.ctx, removal(id, made.ID, certificate.Delete))
	case n < 15:
		what, err = "see", c.seen(id, made.ID, c.clock.Now())
	case n < 18:
		var became store.Found
		became, err = c.Certificates().Found(c.ctx, made, c.clock.Now(), func() bool { return false })
		what = "find " + string(became)
	case n < 19:
		what = "prune"
		_, err = c.Journal().Prune(c.ctx, c.clock.Now(), 100)
	case c.rand.IntN(4) == 0: // it is for ever
		what, err = "revoke", c.Certificates().Revoke(c.ctx, revocation(made.ID))
	}
	if err == nil {
		c.did[what]++
	}
}

// TestWhatIsKeptIsRight does anything in any order, and counts anew after each
// step: in the store, in its copy by the log (as every test does), and in one
// that is made again from the audit.
func TestWhatIsKeptIsRight(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dir := filepath.Join(t.TempDir(), "audit")
	w := open(t, func(cfg *store.Config) { cfg.AuditDir = dir })
	c := &chance{world: w, rand: rand.New(rand.NewPCG(seed, 0)), devices: []registry.DeviceID{"d1", "d2", "d3"}, did: map[string]int{}}
	for _, id := range c.devices {
		w.device(id)
	}
	for i := range 8 {
		c.pool = append(c.pool, real(t, fmt.Sprint("c", i), start.AddDate(1+i, 0, 0)))
	}
	before := filepath.Join(t.TempDir(), "before.db")
	must[store.Copied](t)(w.Copy(w.ctx, before))
	const steps = 300
	for range steps {
		w.clock.add(time.Minute)
		c.happens()
		wantKept(t, w.Store)
	}
	for _, what := range []string{"register", "rotate", "deactivate", "delete"} {
		if c.did[what] == 0 {
			t.Errorf("never: %s", what)
		}
	}
	if sound := must[string](t)(store.Query[string](w.ctx, w.Store, `SELECT group_concat(integrity_check) FROM pragma_integrity_check`)); sound != "ok" {
		t.Error(sound)
	}
	w.ok(w.Close())
	again := must[*store.Store](t)(store.Open(w.ctx, store.Config{Path: before, Instance: "two", Now: w.clock.Now}))
	defer again.Close()
	must[store.Replayed](t)(again.Replay(w.ctx, dir))
	wantKept(t, again)
}

// TestWhatIsKeptIsRightAfterAMigration goes on with what triggers have kept.
func TestWhatIsKeptIsRightAfterAMigration(t *testing.T) {
	w := open(t)
	w.alone()
	w.ok(w.Close())
	steps := store.Migrations()
	own := slices.IndexFunc(steps, func(script string) bool { return strings.Contains(script, "CREATE INDEX rotations_left") })
	w.ok(os.Remove(w.cfg.Path))
	w.ok(os.WriteFile(w.cfg.Path, nil, 0o600))
	w.ok(store.Migrate(w.ctx, w.cfg.Path, steps[:own]))
	w.tamper(
		`INSERT INTO devices VALUES ('d1', 0, 0), ('d2', 0, 0)`,
		`INSERT INTO chains VALUES (1, x'')`,
		`INSERT INTO certificates (id, der, chain, key, key_type, serial, subject, issuer, not_before, not_after, standing, kind, policies, created)
			VALUES ('c1', x'01', 1, 'k1', 'p256', '1', '', '', 0, 7, 'ACTIVE', 'first', '', 0), ('c2', x'02', 1, 'k2', 'p256', '2', '', '', 0, 8, 'INACTIVE', 'first', '', 0)`,
		`INSERT INTO holdings (device, certificate, attached) VALUES ('d1', 'c1', 1), ('d2', 'c1', 1), ('d2', 'c2', 1)`,
		`INSERT INTO rotations (device, number, state, by_package, key, certificate, over, named, held, nonce, profile, evidence, unproven, behind,
			opened, vended_at, acked_at, proven_at, closed_at, lease_instance, lease_until, version, since, woken)
			SELECT device, 1, iif(certificate = 'c1', 'vended', 'stale'), 0, '', certificate, '', '', '', '', '', '', 0, '', 1, 1, 0, 0, 0, '', 0, 1, 1, 0
			FROM holdings WHERE (device, certificate) IN (('d1', 'c1'), ('d2', 'c2'))`,
	)
	w.open()
	wantKept(t, w.Store)
	for _, id := range []registry.DeviceID{"d1", "d2"} {
		w.vend(id, "new of "+string(id), w.find(id).Current())
	}
	w.ok(w.Certificates().Retire(w.ctx, removal("d2", "c1", certificate.Delete)))
	w.ok(w.Certificates().Register(w.ctx, "d1", certificate.Certificate{ID: "c2", Standing: certificate.Active}))
	wantKept(t, w.Store)
	for query, want := range map[rotation.Query]int{
		{Open: true}: 3, {State: rotation.Stale}: 1, {State: rotation.Vended}: 2, {State: rotation.Superseded}: 1,
		{State: rotation.Abandoned}: 0, {State: rotation.Superseded, Open: true}: 0, {Open: true, Device: "d2"}: 2,
	} {
		if all := must[[]rotation.Rotation](t)(w.Journal().Rotations(w.ctx, query)); len(all) != want {
			t.Errorf("%+v lists %d rotations, want %d", query, len(all), want)
		}
	}
}
