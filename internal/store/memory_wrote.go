package store

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// What a vend and a sighting write is not read again: whoever writes it notes it
// as it would be read.

// wroteRotation notes a rotation that is written in place of the one of its
// number, or as a new one.
func (c *touchedRows) wroteRotation(r rotation.Rotation) {
	r = readBack(r)
	c.rotations.note(r.Device, func(all []rotation.Rotation) ([]rotation.Rotation, bool) {
		at, there := slices.BinarySearchFunc(all, r.Number, func(r rotation.Rotation, number int64) int {
			return cmp.Compare(number, r.Number) // newest first
		})
		all = placed(all, at, r, there)
		return all[:min(len(all), rotation.HistoryLimit)], true
	})
}

func readBack(r rotation.Rotation) rotation.Rotation {
	r.Held, r.Behind, r.Undone = some(r.Held), some(r.Behind), some(r.Undone)
	for _, at := range [...]*time.Time{
		&r.Opened, &r.VendedAt, &r.AckedAt, &r.ProvenAt, &r.ClosedAt, &r.UndoneAt, &r.Lease.Until,
	} {
		*at = moment(nanos(*at))
	}
	return r
}

// placed returns a copy of a list with one more at a place, or in place of the one
// that is there.
func placed[T any](list []T, at int, one T, there bool) []T {
	all := append(append(make([]T, 0, len(list)+1), list[:at]...), one)
	if there {
		at++
	}
	return append(all, list[at:]...)
}

// some returns a copy of a list, nil for an empty one.
func some[T any](list []T) []T { return append([]T(nil), list...) }

// wroteAttributes notes attributes that are written, or deleted where they are
// empty. What is no text is to be read as the store has it.
func (c *touchedRows) wroteAttributes(device registry.DeviceID, changed map[string]string) {
	for name, text := range changed {
		if !utf8.ValidString(name+text) || strings.Contains(name+text, "\x00") {
			c.devices.drop(device)
			return
		}
	}
	c.devices.note(device, func(d registry.Device) (registry.Device, bool) {
		all := map[string]string{}
		maps.Copy(all, d.Attributes)
		maps.Copy(all, changed)
		maps.DeleteFunc(all, func(_, text string) bool { return text == "" })
		if d.Attributes = all; len(all) == 0 {
			d.Attributes = nil
		}
		return d, true
	})
}

// wroteHolding notes that a device holds a certificate, from now on, that was
// nobody's and is new.
func (c *touchedRows) wroteHolding(device registry.DeviceID, of certificate.Certificate, now time.Time) {
	if of.Standing == certificate.Deleted {
		c.held.drop(device)
		return
	}
	if of.Created.IsZero() {
		of.Created = now
	}
	of.Created = moment(nanos(of.Created))
	of.NotBefore, of.NotAfter = time.Unix(of.NotBefore.Unix(), 0).UTC(), time.Unix(of.NotAfter.Unix(), 0).UTC()
	of.Chain, of.Policies = some(of.Chain), some(of.Policies)
	h := certificate.Holding{Certificate: of, Device: device, Attached: moment(nanos(now))}
	c.held.note(device, func(all []certificate.Holding) ([]certificate.Holding, bool) {
		at, _ := slices.BinarySearchFunc(all, h, func(a, b certificate.Holding) int {
			return cmp.Or(a.Attached.Compare(b.Attached), cmp.Compare(a.ID, b.ID))
		})
		return placed(all, at, h, false), true
	})
}

// wroteSighting notes a sighting that is written.
func (c *touchedRows) wroteSighting(seen certificate.Sighting) {
	at := moment(nanos(seen.At))
	c.held.note(seen.Device, func(all []certificate.Holding) ([]certificate.Holding, bool) {
		i := slices.IndexFunc(all, func(h certificate.Holding) bool { return h.ID == seen.Certificate })
		if i < 0 {
			return all, true // it does not hold it any more
		}
		h := all[i]
		h.LastSeen, h.Evidence = at, seen.Evidence
		return placed(all, i, h, true), true
	})
}
