package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// TestDeviceInUse: the certificate of a device is the one it was last seen on,
// whatever its standing, or else its newest ACTIVE one.
func TestDeviceInUse(t *testing.T) {
	var connected registry.DeviceID
	w := open(t, func(c *store.Config) {
		c.Connected = func(id registry.DeviceID, _ certificate.ID) bool { return id == connected }
	})
	for _, id := range []registry.DeviceID{"back", "deleted", "inactive", "never", "nothing", "rotated"} {
		w.ok(w.Devices().Add(w.ctx, id, map[string]string{"site": "A", "first": string(id[:1])}))
	}
	older := w.register("back", "b1")
	gone := w.register("deleted", "d1")
	off := w.register("inactive", "i1")
	w.register("never", "n1")
	w.clock.add(time.Minute)
	w.register("back", "b2")
	newer := w.register("never", "n2")
	w.ok(w.seen("back", older.ID, start.Add(time.Hour)))
	w.ok(w.seen("back", older.ID, start.Add(2*time.Hour))) // not written yet
	w.ok(w.seen("deleted", gone.ID, start.Add(time.Hour)))
	w.ok(w.seen("inactive", off.ID, start.Add(time.Hour)))
	w.ok(w.Certificates().Retire(w.ctx, removal("deleted", gone.ID, certificate.Delete)))
	w.ok(w.Certificates().Retire(w.ctx, removal("inactive", off.ID, certificate.Deactivate)))
	_, vended := w.vend("rotated", "r1", nil)
	connected = "rotated"

	device := func(id registry.DeviceID) registry.Device {
		return registry.Device{ID: id, Added: start, Attributes: map[string]string{"site": "A", "first": string(id[:1])}}
	}
	in := func(d store.DeviceInUse, c certificate.Certificate) store.DeviceInUse {
		d.Certificate, d.Standing, d.NotAfter = c.ID, c.Standing, c.NotAfter
		return d
	}
	off.Standing = certificate.Inactive
	want := []store.DeviceInUse{
		in(store.DeviceInUse{Device: device("back"), LastSeen: start.Add(2 * time.Hour)}, older),
		{Device: device("deleted")},
		in(store.DeviceInUse{Device: device("inactive"), LastSeen: start.Add(time.Hour)}, off),
		in(store.DeviceInUse{Device: device("never")}, newer),
		{Device: device("nothing")},
		in(store.DeviceInUse{Device: device("rotated"), Connected: true, Rotation: rotation.Vended}, vended),
	}
	if diff := cmp.Diff(want, must[[]store.DeviceInUse](t)(w.Devices().InUse(w.ctx, registry.Query{}))); diff != "" {
		t.Error(diff)
	}
	two := registry.Query{After: "deleted", Limit: 2, Attributes: map[string]string{"site": "A"}}
	if diff := cmp.Diff(want[2:4], must[[]store.DeviceInUse](t)(w.Devices().InUse(w.ctx, two))); diff != "" {
		t.Error(diff)
	}
	one := registry.Query{Attributes: map[string]string{"site": "A", "first": "r"}}
	if diff := cmp.Diff(want[5:], must[[]store.DeviceInUse](t)(w.Devices().InUse(w.ctx, one))); diff != "" {
		t.Error(diff)
	}
}

// BenchmarkListFleet reads 100,000 devices, a page of 1,000 at a time, with two
// certificates and a rotation each.
func BenchmarkListFleet(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{Path: b.TempDir() + "/store.db", Instance: "one"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const devices = 100_000
	if err := s.Write(b.Context(), fleet(devices)...); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		listed, inUse := 0, 0
		for after := registry.DeviceID(""); ; {
			page, err := s.Devices().InUse(b.Context(), registry.Query{After: after})
			if err != nil {
				b.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			after, listed = page[len(page)-1].ID, listed+len(page)
			for _, d := range page {
				if d.Standing == certificate.Active && d.Rotation == rotation.Finished {
					inUse++
				}
			}
		}
		if listed != devices || inUse != devices {
			b.Fatalf("%d devices, %d in use", listed, inUse)
		}
	}
}

// fleet is the statements that make so many devices as they are after their
// first rotation: with certificates of the size of real ones, whose ids are in
// no order, the first one INACTIVE.
func fleet(n int) []string {
	count := fmt.Sprintf(`WITH RECURSIVE count(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM count WHERE i < %d) `, n)
	const name = `printf('dev-%06d', i)`
	statements := []string{
		`INSERT INTO chains VALUES (1, x'0161')`,
		count + `INSERT INTO devices SELECT ` + name + `, 0, 1 FROM count`,
		count + `INSERT INTO attributes SELECT ` + name + `, 'site', printf('site-%d', i % 100) FROM count`,
	}
	for _, standing := range []certificate.Standing{certificate.Inactive, certificate.Active} {
		statements = append(statements, count+`INSERT INTO certificates (id, der, chain, key, key_type, serial,
			subject, issuer, not_before, not_after, standing, kind, policies, created)
			SELECT lower(hex(randomblob(32))), randomblob(600), 1, lower(hex(randomblob(32))), 'p256', i,
			`+name+`, 'CN=issuing', 0, 1900000000 + i, '`+string(standing)+`', 'rotated', '["fleet"]', 1 FROM count`)
	}
	return append(statements,
		`INSERT INTO holdings (device, certificate, attached, detached, seen, evidence) SELECT subject, id, 1, 0, rowid, 'connection' FROM certificates ORDER BY 1, 2`,
		`INSERT INTO rotations (device, number, state, by_package, key, certificate, over, named, held, nonce, profile,
			evidence, unproven, behind, opened, vended_at, acked_at, proven_at, closed_at, lease_instance, lease_until,
			version, since, woken)
			SELECT subject, 1, 'finished', 0, key, id, '', '', '', '', 'default', 'connection', 0, '',
			1, 2, 3, 3, 3, '', 0, 1, 0, 0 FROM certificates WHERE standing = 'ACTIVE' ORDER BY 1`)
}
