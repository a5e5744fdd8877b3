package store

import (
	"maps"
	"regexp"
	"sync"

	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// rememberedDevices bounds how many devices are kept in memory, at some 600
// octets each: those that are at work now. One that connects, asks, connects
// again and acks does so within minutes.
const rememberedDevices = 1 << 12

// memory is a copy of what every request asks for and little changes: the
// device as the registry has it, and what is frozen. It is never
// older than the database: before a commit the writer takes out whatever the
// commit changes, and until the commit is made nothing is put back. It is for
// reads alone; what is written is decided within the transaction.
type memory struct {
	mu       sync.Mutex
	devices  map[registry.DeviceID]*remembered
	frozen   *rotation.Freeze
	reading  int         // counts the changes of meta, so that a read that began before one is not kept
	changing touchedRows // by the commit that is being made
}

// remembered is a device, or the place kept for one while it is read.
type remembered struct {
	device registry.Device
	read   bool
}

// touchedRows are what a transaction changes of what is remembered.
type touchedRows struct {
	devices map[registry.DeviceID]bool
	all     bool // of the devices
	meta    bool
}

func (t *touchedRows) device(id registry.DeviceID) {
	if t.devices == nil {
		t.devices = map[registry.DeviceID]bool{}
	}
	t.devices[id] = true
}

func (m *memory) init() {
	m.devices = map[registry.DeviceID]*remembered{}
}

// deviceOf returns a device that is remembered. Otherwise it returns the place
// in which the reader is to keep what it finds, nil if it is not to.
func (m *memory) deviceOf(id registry.DeviceID) (d registry.Device, known bool, place *remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	there := m.devices[id]
	switch {
	case there != nil && there.read:
		d = there.device
		d.Attributes = maps.Clone(d.Attributes)
		return d, true, nil
	case there != nil || m.changing.all || m.changing.devices[id]:
		return d, false, nil
	}
	if len(m.devices) >= rememberedDevices {
		for any := range m.devices { // whichever: the order of a map is none
			delete(m.devices, any)
			break
		}
	}
	place = &remembered{}
	m.devices[id] = place
	return d, false, place
}

// keep remembers a device in the place given for it, unless it was changed
// since. A device that is not known leaves its place.
func (m *memory) keep(id registry.DeviceID, place *remembered, d registry.Device, known bool) {
	if place == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.devices[id] != place:
	case !known:
		delete(m.devices, id)
	default:
		d.Attributes = maps.Clone(d.Attributes)
		place.device, place.read = d, true
	}
}

// freeze returns what is frozen; or, if it is not remembered, the count that
// keepFreeze asks for.
func (m *memory) freeze() (f rotation.Freeze, known bool, reading int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen == nil {
		return f, false, m.reading
	}
	return *m.frozen, true, m.reading
}

// keepFreeze remembers what is frozen, unless it was changed since.
func (m *memory) keepFreeze(f rotation.Freeze, reading int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reading == reading && !m.changing.meta {
		m.frozen = &f
	}
}

// change takes out what a commit is about to change.
func (m *memory) change(t touchedRows) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changing = t
	if t.all {
		clear(m.devices)
	}
	for id := range t.devices {
		delete(m.devices, id)
	}
	if t.meta {
		m.frozen = nil
		m.reading++
	}
}

// changed says that the commit is over, whatever became of it.
func (m *memory) changed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changing = touchedRows{}
}

// Names of the tables that devices and what is frozen are read from.
var (
	devicesTables = regexp.MustCompile(`(?i)\b(devices|attributes)\b`)
	metaTable     = regexp.MustCompile(`(?i)\bmeta\b`)
)

// touch is what a statement may change of what is remembered, by the tables
// that its text names.
type touch struct{ devices, meta bool }

// touches notes what a statement may change.
func (t *tx) touches(text string) {
	what, known := t.touch[text]
	if !known {
		what = touch{devicesTables.MatchString(text), metaTable.MatchString(text)}
		t.touch[text] = what
	}
	t.touched.all = t.touched.all || what.devices
	t.touched.meta = t.touched.meta || what.meta
}

// changeOf is change for a statement that changes what the registry says of one
// device alone.
func (t *tx) changeOf(device registry.DeviceID, text string, args ...any) error {
	t.touched.device(device)
	_, err := t.carry(text, args)
	return err
}
