package store

import (
	"container/list"
	"sync"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// draftsKept bounds how many rotations are kept that nobody has written. The
// oldest is forgotten first, as a crash would forget it.
const draftsKept = 1 << 12

// draft is a rotation that is intended or issued and not written: nothing of
// it has left the process. It is written whole, by the Advance that makes
// something of it, or never.
type draft struct {
	rotation    rotation.Rotation
	givesWay    *rotation.Rotation       // as it shall be, with the Version it was read at
	certificate *certificate.Certificate // to be registered with it
	activate    certificate.ID           // to be made ACTIVE with it
	busy        bool                     // the writer has it
	place       *list.Element
}

func (d *draft) carries(id certificate.ID) bool {
	return id != "" && (d.rotation.Certificate == id || d.registers(id))
}

func (d *draft) registers(id certificate.ID) bool {
	return d.certificate != nil && d.certificate.ID == id
}

// drafts are the rotations that are not written, one a device.
type drafts struct {
	mu    sync.Mutex
	all   map[registry.DeviceID]*draft
	order *list.List // oldest first, of registry.DeviceID
}

func (ds *drafts) init() {
	ds.all = map[registry.DeviceID]*draft{}
	ds.order = list.New()
}

// find returns a copy of a device's draft, or nil.
func (ds *drafts) find(device registry.DeviceID) *draft {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d, ok := ds.all[device]
	if !ok {
		return nil
	}
	copied := *d
	return &copied
}

// waiting returns copies of the drafts that a sweep has to look at.
func (ds *drafts) waiting(h rotation.Horizon) []draft {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	var all []draft
	for device, d := range ds.all {
		if device > h.After && d.rotation.Opened.Before(h.Vended) && !leased(d.rotation.Lease, h.Now) && !d.busy {
			all = append(all, *d)
		}
	}
	return all
}

func leased(l rotation.Lease, now time.Time) bool { return l.Instance != "" && now.Before(l.Until) }

// put keeps a draft in place of the one that was there when the caller looked,
// and returns false if that has changed.
func (ds *drafts) put(d, instead *draft) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	device := d.rotation.Device
	there, ok := ds.all[device]
	if ok != (instead != nil) || ok && (there.busy || there.place != instead.place || there.rotation.Version != instead.rotation.Version) {
		return false
	}
	if ok {
		ds.drop(device)
	}
	d.place = ds.order.PushBack(device)
	ds.all[device] = d
	for e := ds.order.Front(); len(ds.all) > draftsKept && e != nil; {
		oldest := e.Value.(registry.DeviceID)
		e = e.Next()
		if !ds.all[oldest].busy {
			ds.drop(oldest)
		}
	}
	return true
}

func (ds *drafts) drop(device registry.DeviceID) {
	ds.order.Remove(ds.all[device].place)
	delete(ds.all, device)
}

// one reports whether there is one draft and no other.
func (ds *drafts) one() bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return len(ds.all) == 1
}

// take gives the writer a draft to write, until settle: nothing else changes
// it. It returns nil if it is not as the caller found it.
func (ds *drafts) take(found *draft) *draft {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d, ok := ds.all[found.rotation.Device]
	if !ok || d.busy || d.place != found.place || d.rotation.Version != found.rotation.Version {
		return nil
	}
	d.busy = true
	copied := *d
	return &copied
}

// settle ends what take began. A draft that was written, or can never be, is
// forgotten.
func (ds *drafts) settle(taken *draft, gone bool) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d, ok := ds.all[taken.rotation.Device]
	switch {
	case !ok || d.place != taken.place:
	case gone:
		ds.drop(taken.rotation.Device)
	default:
		d.busy = false
	}
}

// advance changes a draft in memory, and returns false if it is not as the
// caller found it.
func (ds *drafts) advance(found *draft, c rotation.Change) (rotation.Rotation, bool) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d, ok := ds.all[c.Rotation.Device]
	if !ok || d.busy || d.place != found.place || d.rotation.Version != c.Rotation.Version {
		return rotation.Rotation{}, false
	}
	d.rotation = cloned(c.Rotation)
	d.rotation.Version++
	if c.Certificate != nil {
		d.certificate = new(*c.Certificate)
	}
	return cloned(d.rotation), true
}

// forget drops a draft whose work was given up, as if it had never been opened.
func (ds *drafts) forget(found *draft) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d, ok := ds.all[found.rotation.Device]
	if ok && !d.busy && d.place == found.place {
		ds.drop(found.rotation.Device)
	}
}

// register postpones the registration of a certificate that a device's draft
// carries; false if there is no such draft.
func (ds *drafts) register(device registry.DeviceID, c certificate.Certificate) bool {
	return ds.change(device, c.ID, func(d *draft) { d.certificate = &c })
}

// activate postpones the activation of a certificate that a device's draft
// carries; false if there is no such draft.
func (ds *drafts) activate(device registry.DeviceID, id certificate.ID) bool {
	return ds.change(device, id, func(d *draft) { d.activate = id })
}

func (ds *drafts) change(device registry.DeviceID, id certificate.ID, change func(*draft)) bool {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	d, ok := ds.all[device]
	if !ok || d.busy || !d.carries(id) {
		return false
	}
	change(d)
	return true
}
