package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// The kinds of events that the store writes itself, in the commit of what they
// record. Their details hold all that replay.go needs to do the same again on
// an older copy of the store.
const (
	RotationState     = "rotation.state"
	RetirementWritten = "retirement.written"
	RetirementDue     = "retirement.put_off" // another due time
	RetirementRevert  = "retirement.reverted"
	RetirementReturn  = "retirement.returned" // the device came back from the old one
	RetirementHalf    = "retirement.deactivated"
	RetirementDone    = "retirement.done"
	RetirementUndone  = "retirement.undone" // closed because a person has undone the rotation

	CertificateChain       = "certificate.chain" // the first with a new chain
	CertificateRegistered  = "certificate.registered"
	CertificateAttached    = "certificate.attached"
	CertificateAdopted     = "certificate.adopted" // after a restore that had lost it
	CertificateBirth       = "certificate.birth"   // a person has said that it is one
	CertificateFound       = "certificate.found"   // to be so in another place; see Certificates.Found
	CertificateActivated   = "certificate.activated"
	CertificateDeactivated = "certificate.deactivated"
	CertificateDetached    = "certificate.detached"
	CertificateDeleted     = "certificate.deleted"
	CertificateRevoked     = "certificate.revoked"

	DeviceAdded      = "device.added"
	DeviceAttributes = "device.attributes" // those that changed
	DeviceRemoved    = "device.removed"
	DeviceBlocked    = "device.blocked"
	DeviceUnblocked  = "device.unblocked"

	GroupAdded   = "group.added"
	GroupRemoved = "group.removed"

	PackagePut   = "package.put"
	PackageSpent = "package.spent"

	Frozen = "freeze"
	Thawed = "thaw"
	CAMade = "ca.made"

	CATookOver = "ca.took_over" // another CA issues from now on
	CARetired  = "ca.retired"

	ServerCAPrepared  = "ca.server_prepared"
	ServerCAUsed      = "ca.server_used"
	ServerCAAbandoned = "ca.server_abandoned" // it was prepared, and is not used
	DeviceAnchors     = "device.anchors"      // what it verifies servers by

	CRLNumbered   = "crl.numbered" // a CRL of this number is about to be signed
	StoreRestored = "store.restored"

	StoreTakenOver = "store.taken_over" // another instance leads; see shared.go
)

// Event is one row of the audit. Its JSON is a line of the copied files.
type Event struct {
	Seq         int64             `json:"seq"`
	At          time.Time         `json:"at"`
	Instance    string            `json:"instance"`
	Kind        string            `json:"kind"`
	Device      registry.DeviceID `json:"device,omitempty"`
	Certificate certificate.ID    `json:"certificate,omitempty"`
	Detail      map[string]string `json:"detail,omitempty"`
	Hash        string            `json:"hash,omitempty"` // of the row before and this one, hex
}

// Audit is the record of what was done. Each row carries the SHA-256 over the
// hash of the row before it and its own JSON without a hash.
type Audit struct{ s *Store }

// Note writes an event of another part of the program; device, certificate and
// detail may be empty. The detail never holds a key or PEM: text that looks
// like PEM is refused.
func (h Audit) Note(
	ctx context.Context, kind string, device registry.DeviceID, id certificate.ID, detail map[string]string,
) error {
	if kind == "" {
		return errors.New("audit: an event needs a kind")
	}
	for name, text := range detail {
		if strings.Contains(text, "-----BEGIN") {
			return fmt.Errorf("audit %s: %s holds PEM", kind, name)
		}
	}
	e := Event{Kind: kind, Device: device, Certificate: id, Detail: detail}
	if err := h.s.commit(ctx, func(t *tx) error { return t.audit(e) }); err != nil {
		return fmt.Errorf("audit %s: %w", kind, err)
	}
	return nil
}

// Timeline returns every event of a device, oldest first.
func (h Audit) Timeline(ctx context.Context, device registry.DeviceID) ([]Event, error) {
	var events []Event
	err := h.s.view(ctx, func(q querier) (err error) {
		events, err = collect(q, scanEvent, `SELECT `+eventColumns+` FROM audit WHERE device = ? AND device <> '' ORDER BY seq`, device)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("timeline of device %s: %w", device, err)
	}
	return events, nil
}

// Newest returns when the newest event was recorded, or the zero time.
func (h Audit) Newest(ctx context.Context) (time.Time, error) {
	var at int64
	err := h.s.look(ctx, func(q querier) (err error) {
		at, _, err = single(q, value[int64], `SELECT at FROM audit ORDER BY seq DESC LIMIT 1`)
		return err
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("newest event: %w", err)
	}
	return moment(at), nil
}

// End returns the number of the last row and its hash, in hex; 0 and nothing
// without rows.
func (h Audit) End(ctx context.Context) (row int64, hash string, err error) {
	var end head
	err = h.s.look(ctx, func(q querier) (err error) {
		end, err = readHead(q)
		return err
	})
	if err != nil {
		return 0, "", fmt.Errorf("end of the audit: %w", err)
	}
	if end.seq == 0 {
		return 0, "", nil
	}
	return end.seq, end.text(), nil
}

// head is the end of the chain.
type head struct {
	seq  int64
	hash [sha256.Size]byte
}

func readHead(q querier) (head, error) {
	return scanned(single(q, func(row scanner) (h head, err error) {
		var hash []byte
		err = row.Scan(&h.seq, &hash)
		copy(h.hash[:], hash)
		return h, err
	}, `SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`))
}

// scanned drops whether there was a row.
func scanned[T any](one T, _ bool, err error) (T, error) { return one, err }

// next returns the end of the chain after an event, and sets what makes the
// event part of it.
func (h head) next(e *Event) head {
	r := h.follow(*e)
	*e = r.Event
	return r.end
}

// audit appends an event to the chain, in this transaction.
func (t *tx) audit(e Event) error {
	if t.replays {
		return nil
	}
	e.At, e.Instance = t.now.UTC().Round(0), t.instance
	e.Detail = valid(e.Detail)
	r := t.head.follow(e)
	t.head = r.end
	return t.enter(r)
}

// enter appends an event that is part of the chain.
func (t *tx) enter(r record) error {
	t.records, t.wrote = append(t.records, r), true
	if len(t.records)-t.entered < eventBunch {
		return nil
	}
	return t.writeEvents()
}

// eventBunch is how many events one statement writes at most.
const eventBunch = 16

// insertEvents are the statements that write so many events.
var insertEvents = func() (texts [eventBunch + 1]string) {
	for n := 1; n <= eventBunch; n++ {
		texts[n] = `INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)` + strings.Repeat(`, (?, ?, ?, ?, ?, ?, ?, ?)`, n-1)
	}
	return texts
}()

// writeEvents writes the events that were gathered, in order.
func (t *tx) writeEvents() error {
	for t.entered < len(t.records) {
		n := min(len(t.records)-t.entered, eventBunch)
		text := insertEvents[n]
		args := make([]any, 0, 8*n)
		for i := range t.records[t.entered : t.entered+n] {
			r := &t.records[t.entered+i]
			args = append(args, r.Seq, nanos(r.At), r.Instance, r.Kind, string(r.Device), string(r.Certificate), r.detail, r.end.hash[:])
		}
		if err := t.change(text, args...); err != nil {
			return err
		}
		t.entered += n
	}
	return nil
}

// valid returns the detail as JSON can hold it, so that what is hashed is what
// is read back: the name in a certificate may be any bytes.
func valid(detail map[string]string) map[string]string {
	for name, text := range detail {
		if !utf8.ValidString(name) || !utf8.ValidString(text) {
			return mended(detail)
		}
	}
	return detail
}

func mended(detail map[string]string) map[string]string {
	all := make(map[string]string, len(detail))
	for name, text := range detail {
		all[strings.ToValidUTF8(name, "?")] = strings.ToValidUTF8(text, "?")
	}
	return all
}

const eventColumns = `seq, at, instance, kind, device, certificate, detail, hash`

func scanEvent(row scanner) (Event, error) {
	var (
		e      Event
		at     int64
		detail string
		hash   []byte
	)
	if err := row.Scan(&e.Seq, &at, &e.Instance, &e.Kind, &e.Device, &e.Certificate, &detail, &hash); err != nil {
		return e, err
	}
	e.At, e.Hash = moment(at), hex.EncodeToString(hash)
	var err error
	e.Detail, err = fields(detail)
	return e, err
}
