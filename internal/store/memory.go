package store

import (
	"regexp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// rememberedOctets bounds what is remembered of each kind, by an estimate: three
// times as much in all. It is enough for 7,200 devices with two rotations each, and
// 3,600 with two certificates each: those at work now. One that connects, asks,
// connects again and acks does so within minutes. More would have the collector
// look through more each time.
const rememberedOctets = 16 << 20

// memory is a copy of what every request asks for: the device as the registry has
// it, its rotations, what it holds, and what is frozen. It is for reads alone; what
// is written is decided within the transaction. See recall for why it is neither
// older than the last commit nor newer.
//
// A statement whose text names a table that one of these is read from changes it
// for every device, unless it is carried out by a method that says better what
// it changes: changeOf, changeOfHolders, or noted.
type memory struct {
	devices   recall[registry.Device]
	rotations recall[[]rotation.Rotation]   // newest first, at most rotation.HistoryLimit
	held      recall[[]certificate.Holding] // as heldBy returns them
	frozen    recall[rotation.Freeze]       // of nobody
}

// nobody has what is no device's own.
const nobody registry.DeviceID = ""

// touchedRows are what a transaction changes of what is remembered.
type touchedRows struct {
	devices   changes[registry.Device]
	rotations changes[[]rotation.Rotation]
	held      changes[[]certificate.Holding]
	frozen    changes[rotation.Freeze]
}

func (m *memory) init() {
	m.devices.init(rememberedOctets, func(d registry.Device) int {
		size := 1 << 9
		for name, text := range d.Attributes {
			size += len(name) + len(text) + 1<<6
		}
		return size
	})
	m.rotations.init(rememberedOctets, func(all []rotation.Rotation) int { return 1<<8 + len(all)<<10 })
	m.held.init(rememberedOctets, func(all []certificate.Holding) int {
		size := 1 << 8
		for _, h := range all {
			size += 1<<10 + len(h.DER)
			for _, der := range h.Chain {
				size += len(der)
			}
		}
		return size
	})
	m.frozen.init(1<<10, func(rotation.Freeze) int { return 1 })
}

// change says what a commit is about to change.
func (m *memory) change(t touchedRows) {
	m.devices.change(t.devices)
	m.rotations.change(t.rotations)
	m.held.change(t.held)
	m.frozen.change(t.frozen)
}

// changed says that the commit is over, and whether it was made.
func (m *memory) changed(made bool) {
	m.devices.changed(made)
	m.rotations.changed(made)
	m.held.changed(made)
	m.frozen.changed(made)
}

// Names of the tables that each is read from.
var (
	devicesTables   = regexp.MustCompile(`(?i)\b(devices|attributes)\b`)
	rotationsTables = regexp.MustCompile(`(?i)\brotations\b`)
	heldTables      = regexp.MustCompile(`(?i)\b(holdings|certificates|chains)\b`)
	metaTable       = regexp.MustCompile(`(?i)\bmeta\b`)
)

// touch is what a statement may change of what is remembered, by the tables
// that its text names.
type touch struct{ devices, rotations, held, meta bool }

func touchOf(text string) touch {
	return touch{
		devicesTables.MatchString(text), rotationsTables.MatchString(text),
		heldTables.MatchString(text), metaTable.MatchString(text),
	}
}

// touches notes what a statement may change.
func (t *tx) touches(text string) {
	what, known := t.touch[text]
	if !known {
		what = touchOf(text)
		t.touch[text] = what
	}
	t.touched.devices.all = t.touched.devices.all || what.devices
	t.touched.rotations.all = t.touched.rotations.all || what.rotations
	t.touched.held.all = t.touched.held.all || what.held
	t.touched.frozen.all = t.touched.frozen.all || what.meta
}

// changeOf is change for a statement that changes rows of one device alone.
func (t *tx) changeOf(device registry.DeviceID, text string, args ...any) error {
	t.touched.devices.drop(device)
	t.touched.rotations.drop(device)
	t.touched.held.drop(device)
	return t.noted(text, args...)
}

// changeOfHolders is change for a statement that changes a certificate alone, or
// that one device holds it: that shows with everyone who does.
func (t *tx) changeOfHolders(id certificate.ID, device registry.DeviceID, text string, args ...any) error {
	holders, err := collect(t, value[registry.DeviceID], `SELECT device FROM holdings WHERE certificate = ? AND detached = 0`, id)
	if err != nil {
		return err
	}
	for _, holder := range append(holders, device) {
		t.touched.held.drop(holder)
	}
	return t.noted(text, args...)
}

// noted is change for a statement of which everything is noted that it changes of
// what is remembered.
func (t *tx) noted(text string, args ...any) error {
	_, err := t.carry(text, args)
	return err
}
