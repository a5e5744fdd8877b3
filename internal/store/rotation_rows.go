package store

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

const rotationColumns = `device, number, state, by_package, key, certificate, over, named, held, nonce, profile,
	evidence, unproven, behind, opened, vended_at, acked_at, proven_at, closed_at, lease_instance, lease_until, version, undone, undone_at`

func scanRotation(row scanner) (rotation.Rotation, error) {
	var (
		r                                                              rotation.Rotation
		held, behind, undone                                           string
		opened, vended, acked, proven, closedAt, leasedUntil, undoneAt int64
	)
	err := row.Scan(&r.Device, &r.Number, &r.State, &r.ByPackage, &r.Key, &r.Certificate, &r.Over, &r.Named, &held,
		&r.Nonce, &r.Profile, &r.Evidence, &r.Unproven, &behind, &opened, &vended, &acked, &proven, &closedAt,
		&r.Lease.Instance, &leasedUntil, &r.Version, &undone, &undoneAt)
	if err != nil {
		return r, err
	}
	r.Opened, r.VendedAt, r.AckedAt = moment(opened), moment(vended), moment(acked)
	r.ProvenAt, r.ClosedAt, r.Lease.Until = moment(proven), moment(closedAt), moment(leasedUntil)
	r.UndoneAt = moment(undoneAt)
	if r.Undone, err = names[certificate.ID](undone); err != nil {
		return r, err
	}
	if r.Held, err = names[certificate.ID](held); err != nil {
		return r, err
	}
	r.Behind, err = names[rotation.Step](behind)
	return r, err
}

// values returns what the columns of a rotation shall hold.
func values(r rotation.Rotation) []any {
	return []any{
		r.Device, r.Number, r.State, r.ByPackage, r.Key, r.Certificate, r.Over, r.Named, array(r.Held), r.Nonce, r.Profile,
		r.Evidence, r.Unproven, array(r.Behind), nanos(r.Opened), nanos(r.VendedAt), nanos(r.AckedAt), nanos(r.ProvenAt),
		nanos(r.ClosedAt), r.Lease.Instance, nanos(r.Lease.Until), r.Version, array(r.Undone), nanos(r.UndoneAt), since(r),
	}
}

// since returns from when on the sweep counts its patience with a rotation.
func since(r rotation.Rotation) int64 {
	switch r.State {
	case rotation.Intended, rotation.Issued:
		return nanos(r.Opened)
	case rotation.Vended:
		return nanos(r.VendedAt)
	case rotation.Proven:
		return nanos(r.ProvenAt)
	}
	return 0
}

// write writes the rotation in place of the one of its number, or as a new one
// where it was in no state before, with its version as it stands. An event
// records a state it was not in before.
func write(t *tx, r rotation.Rotation, before rotation.State) error {
	return writeOwing(t, r, r.Behind, before)
}

// writeOwing is write for a rotation of which this commit itself does steps. The
// event has them as left to be done still: where a crash has torn what follows it
// off the audit's files, whoever replays them does these steps.
func writeOwing(t *tx, r rotation.Rotation, left []rotation.Step, before rotation.State) error {
	t.touched.wroteRotation(r)
	text := updateRotation
	if before == "" {
		text = insertRotation
	}
	if err := t.noted(text, values(r)...); err != nil {
		return err
	}
	if r.State == before {
		return nil
	}
	t.count(before, r.State)
	r.Behind = left
	return t.audit(Event{Kind: RotationState, Device: r.Device, Certificate: r.Certificate, Detail: detail(r, before == "")})
}

// The statements that write a rotation, new or in place of itself: one for both
// would look into every index twice.
const (
	insertRotation = `INSERT INTO rotations (` + rotationColumns + `, since, woken)
		VALUES (?1, ?2, ?3, ?4, ?, ?6, ?, ?, ?, ?, ?, ?, ?, ?, ?15, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ` + woken + `)`
	updateRotation = `UPDATE rotations SET state = ?3, by_package = ?4, key = ?5, certificate = ?6, over = ?7, named = ?8,
		held = ?9, nonce = ?10, profile = ?11, evidence = ?12, unproven = ?13, behind = ?14, opened = ?15,
		vended_at = ?16, acked_at = ?17, proven_at = ?18, closed_at = ?19, lease_instance = ?20, lease_until = ?21,
		version = ?22, undone = ?23, undone_at = ?24, since = ?25, woken = ` + woken + `
		WHERE device = ?1 AND number = ?2`
)

// woken says whether a sighting has shown the rotation's certificate, by
// rotation.Rotation.ShownBy. What is seen later wakes it too, see writeSighting.
const woken = `((?3 = 'vended' OR ?3 = 'acknowledged' OR ?3 = 'stale') AND EXISTS (SELECT 1 FROM holdings h
	WHERE h.device = ?1 AND h.certificate = ?6 AND h.seen > 0 AND (NOT ?4 OR h.seen >= ?15)))`

// count notes that a rotation has gone from a state to another; from none where
// it is new, to none where it is deleted.
func (t *tx) count(from, to rotation.State) {
	if t.counted == nil {
		t.counted = map[rotation.State]int{}
	}
	t.counted[from]--
	t.counted[to]++
}

// writeCounts brings the tallies of rotations up to date: once for all that a
// transaction has counted, of which much cancels out.
func (t *tx) writeCounts() error {
	for _, state := range slices.Sorted(maps.Keys(t.counted)) {
		more := t.counted[state]
		if state == "" || more == 0 {
			continue
		}
		err := t.change(`INSERT INTO tallies VALUES ('rotation', ?1, ?2)
			ON CONFLICT (what, state) DO UPDATE SET n = n + ?2`, state, more)
		if err != nil {
			return err
		}
	}
	t.counted = nil
	return nil
}

// detail returns what an event says of a rotation. What never changes once it
// was opened is in the first event only.
func detail(r rotation.Rotation, first bool) map[string]string {
	all := make(map[string]string, 16)
	say := func(name, text string) {
		if text != "" {
			all[name] = text
		}
	}
	say("rotation", strconv.FormatInt(r.Number, 10))
	say("state", string(r.State))
	say("key", string(r.Key))
	say("over", string(r.Over))
	say("evidence", string(r.Evidence))
	say("profile", r.Profile)
	say("behind", array(r.Behind))
	say("named", string(r.Named))
	say("vended", stamp(r.VendedAt))
	say("acked", stamp(r.AckedAt))
	say("proven", stamp(r.ProvenAt))
	say("closed", stamp(r.ClosedAt))
	if r.Unproven {
		say("unproven", "true")
	}
	if first {
		say("opened", stamp(r.Opened))
		say("held", array(r.Held))
		say("nonce", r.Nonce)
		if r.ByPackage {
			say("byPackage", "true")
		}
	}
	return all
}

// numbered returns a device's rotation of a number.
func numbered(q querier, device registry.DeviceID, number int64) (rotation.Rotation, bool, error) {
	return single(q, scanRotation,
		`SELECT `+rotationColumns+` FROM rotations WHERE device = ? AND number = ?`, device, number)
}

// otherOpen reports whether a rotation of the device is open besides those of
// the numbers given.
func otherOpen(q querier, device registry.DeviceID, besides ...int64) (bool, error) {
	number, open, err := single(q, value[int64], `SELECT number FROM rotations
		WHERE device = ? AND `+openStates, device)
	return open && !slices.Contains(besides, number), err
}

func cloned(r rotation.Rotation) rotation.Rotation {
	r.Held, r.Behind, r.Undone = slices.Clone(r.Held), slices.Clone(r.Behind), slices.Clone(r.Undone)
	return r
}

// recorded changes a rotation to what an event says of it: the other way of
// detail.
func recorded(r *rotation.Rotation, e Event, first bool) (err error) {
	r.Version++
	r.Lease = rotation.Lease{}
	r.Certificate, r.State = e.Certificate, rotation.State(e.Detail["state"])
	r.Key, r.Over = certificate.KeyID(e.Detail["key"]), certificate.ID(e.Detail["over"])
	r.Evidence, r.Profile = certificate.Evidence(e.Detail["evidence"]), e.Detail["profile"]
	r.Unproven, r.Named = e.Detail["unproven"] == "true", certificate.ID(e.Detail["named"])
	if r.Behind, err = names[rotation.Step](e.Detail["behind"]); err != nil {
		return err
	}
	stamps := map[string]*time.Time{"vended": &r.VendedAt, "acked": &r.AckedAt, "proven": &r.ProvenAt, "closed": &r.ClosedAt}
	if first {
		r.Nonce, r.ByPackage = e.Detail["nonce"], e.Detail["byPackage"] == "true"
		if r.Held, err = names[certificate.ID](e.Detail["held"]); err != nil {
			return err
		}
		stamps["opened"] = &r.Opened
	}
	for name, at := range stamps {
		if *at, err = readStamp(e.Detail[name]); err != nil {
			return err
		}
	}
	return nil
}
