package aws

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// Registration says how a certificate becomes one of AWS IoT.
type Registration string

// The registrations.
const (
	WithCA    Registration = "with-ca"    // signed by a CA that is registered in AWS IoT
	WithoutCA Registration = "without-ca" // by whomever; devices must send SNI
)

// Inventory keeps certificates in the store and in AWS IoT. What takes from a
// device is written in the store first and done at AWS then, what gives to it
// is done at AWS first: the store never promises more than AWS keeps. What lies
// between the two is marked (store.Unsettled), and Settle brings it to an end
// that a crash or an outage has cut off.
//
// Read register.go and retire.go for the two directions, held.go for what AWS
// knows and the store does not yet, settle.go for what was cut off, restored.go
// for a store that was brought back from a backup.
type Inventory struct {
	rows  store.Certificates
	marks store.Unsettled
	iot   *iot.Client
	names names
	how   Registration
	views *recent[registry.DeviceID, view]
	fresh *recent[registry.DeviceID, struct{}] // looked at because of a certificate that was not known
	// removed are those that were deleted at AWS, or are about to be: an answer
	// of before may still be on its way into the store.
	removed *recent[certificate.ID, struct{}]
	log     zerolog.Logger
	now     func() time.Time
	// refused is told that AWS IoT will not have a certificate: its CA may be
	// INACTIVE there by now. Nil: nobody is.
	refused func()

	said     *recent[certificate.ID, []string] // the policies that AWS has just listed
	valid    *recent[certificate.ID, struct{}] // what AWS had not REVOKED when it was read
	presence *Presence                         // nil: there is no table
	looked   *recent[registry.DeviceID, struct{}]

	// Of a store that was restored, see restored.go.
	restored time.Time                            // zero: it was not
	known    *recent[registry.DeviceID, struct{}] // whose certificates were read since this process began
	whole    func(since time.Time) bool           // all of AWS IoT's inventory was read since

	mu     sync.Mutex
	atWork map[certificate.ID]int // that AWS is being told about, by how many; settling: by Settle alone
	// met are those of atWork about which several told AWS at a time.
	met map[certificate.ID]bool
}

var _ certificate.Inventory = (*Inventory)(nil)

// settling is what atWork says of a certificate that Settle is at work on.
const settling = -1

var errSettling = errors.New("what was cut off is brought to an end just now")

// begin marks a certificate, and returns what ends that: with done, the mark is
// taken away; without it, Settle finds it. While Settle is at work on it nobody
// else is: what they tell AWS could arrive in either order.
func (i *Inventory) begin(ctx context.Context, device registry.DeviceID, id certificate.ID) (end func(done bool) error, err error) {
	if !i.enterWork(id, false) {
		return nil, tryLater(fmt.Errorf("certificate %s: %w", id, errSettling))
	}
	if err := i.marks.Begin(ctx, store.Mark{Certificate: id, Device: device}); err != nil {
		i.leaveWork(id)
		return nil, err
	}
	return func(done bool) error { return i.end(ctx, id, done) }, nil
}

// end takes the mark away, unless somebody else is at work on the certificate
// too, or was meanwhile: what they told AWS may have arrived in either order, and
// Settle makes it right.
func (i *Inventory) end(ctx context.Context, id certificate.ID, done bool) error {
	if alone := i.leaveWork(id); !alone || !done {
		return nil
	}
	return i.marks.End(ctx, id)
}

// enterWork notes that a certificate is worked on, and returns false, noting
// nothing, if somebody is at work on it and one of the two must be alone.
func (i *Inventory) enterWork(id certificate.ID, alone bool) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.atWork[id] == settling, alone && i.atWork[id] > 0:
		return false
	case alone:
		i.atWork[id] = settling
	default:
		if i.atWork[id]++; i.atWork[id] > 1 {
			i.met[id] = true
		}
	}
	return true
}

// leaveWork reports whether nobody else was at work on the certificate since
// enterWork.
func (i *Inventory) leaveWork(id certificate.ID) (alone bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	alone = !i.met[id]
	i.atWork[id]--
	if i.atWork[id] <= 0 {
		delete(i.atWork, id)
		delete(i.met, id)
	}
	return alone
}

// Activate implements certificate.Inventory.
func (i *Inventory) Activate(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	at, err := i.rows.Place(ctx, device, id)
	switch {
	case err != nil:
		return err
	case !at.Held || at.Standing == certificate.Revoked || at.Standing == certificate.Active:
		return i.rows.Activate(ctx, device, id) // which says why not, or does nothing
	}
	end, err := i.begin(ctx, device, id)
	if err != nil {
		return err
	}
	if err := i.activate(ctx, id); err != nil {
		return errors.Join(refuse(nil, err), end(errors.Is(err, certificate.ErrRevoked)))
	}
	if err := i.rows.Activate(ctx, device, id); err != nil {
		return errors.Join(err, end(false))
	}
	// One that the commit of its rotation makes ACTIVE stays marked until then.
	at, err = i.rows.Place(ctx, device, id)
	return errors.Join(err, end(err == nil && at.Standing == certificate.Active))
}

// activate makes a certificate ACTIVE that the store has as INACTIVE. One that
// somebody has made REVOKED at AWS since stays so.
func (i *Inventory) activate(ctx context.Context, id certificate.ID) error {
	out, err := i.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: new(string(id))})
	switch {
	case err != nil:
		return fmt.Errorf("describe certificate %s: %w", id, err)
	case out.CertificateDescription.Status == types.CertificateStatusRevoked:
		return fmt.Errorf("certificate %s at AWS: %w", id, certificate.ErrRevoked)
	}
	return i.setStatus(ctx, id, types.CertificateStatusActive)
}

// deactivate makes a certificate INACTIVE, unless it is gone. One that somebody has
// made REVOKED at AWS stays so: from INACTIVE an undo brings it back.
func (i *Inventory) deactivate(ctx context.Context, id certificate.ID) error {
	if _, lately := i.valid.get(id); !lately {
		out, err := i.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: new(string(id))})
		switch {
		case isNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("describe certificate %s: %w", id, err)
		case out.CertificateDescription.Status == types.CertificateStatusRevoked:
			return nil
		}
	}
	return unlessGone(i.setStatus(ctx, id, types.CertificateStatusInactive))
}

// setStatus is idempotent.
func (i *Inventory) setStatus(ctx context.Context, id certificate.ID, status types.CertificateStatus) error {
	_, err := i.iot.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: new(string(id)), NewStatus: status})
	if err != nil {
		return fmt.Errorf("make certificate %s %s: %w", id, status, err)
	}
	return nil
}

// statusOf returns how a certificate that stands so is to stand at AWS.
func statusOf(standing certificate.Standing) types.CertificateStatus {
	switch standing {
	case certificate.Active:
		return types.CertificateStatusActive
	case certificate.Revoked:
		return types.CertificateStatusRevoked
	}
	return types.CertificateStatusInactive
}

// Seen implements certificate.Inventory. A certificate that the store does not
// know as the device's is looked for at AWS first, and so is one that is
// INACTIVE here because AWS had it so; for no longer than somebody can wait who
// has asked for something: seenTime.
func (i *Inventory) Seen(ctx context.Context, s certificate.Sighting) error {
	err := i.rows.Seen(ctx, s)
	if !errors.Is(err, certificate.ErrNotHeld) && !errors.Is(err, certificate.ErrNotActive) {
		return err
	}
	if unheard := i.speaks(ctx, s); unheard != nil {
		return errors.Join(err, unheard)
	}
	if _, lately := i.fresh.get(s.Device); lately {
		return err
	}
	if errors.Is(err, certificate.ErrNotActive) {
		on, unheard := i.isOnAgain(ctx, s.Certificate)
		if unheard != nil || !on {
			return errors.Join(err, unheard)
		}
		i.fresh.put(s.Device, struct{}{})
		return i.rows.Seen(ctx, s)
	}
	i.views.forget(s.Device)
	if err := i.learnSoon(ctx, s.Device); err != nil {
		return refuse(nil, err)
	}
	i.fresh.put(s.Device, struct{}{})
	return i.rows.Seen(ctx, s)
}

// seenTime bounds how long AWS is asked about a certificate that was seen and is
// not known. When many devices come for the first time, the quotas have most of
// them wait for longer; they come again, and this is before the queue in which a
// request is told so.
const seenTime = 3 * time.Second

func (i *Inventory) learnSoon(ctx context.Context, device registry.DeviceID) error {
	ctx, cancel := context.WithTimeout(ctx, seenTime)
	defer cancel()
	return i.learn(ctx, device)
}

// isOnAgain asks AWS about a certificate that it had INACTIVE when it was read,
// and reports whether it is ACTIVE here by now.
func (i *Inventory) isOnAgain(ctx context.Context, id certificate.ID) (bool, error) {
	elsewhere, err := i.rows.IsElsewhere(ctx, id)
	if err != nil || !elsewhere {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, seenTime)
	defer cancel()
	read := i.now()
	c, err := i.describe(ctx, id)
	if err != nil {
		return false, unlessGone(err)
	}
	found, err := i.rows.Found(ctx, c, read, i.isRemoved(id))
	return found == store.FoundOn, err
}

// hear brings a certificate in the store to where AWS has it, as far as the
// inventory may: see store.Certificates.Found.
func (i *Inventory) hear(ctx context.Context, id certificate.ID) error {
	read := i.now()
	c, err := i.describe(ctx, id)
	if isNotFound(err) {
		_, err = i.rows.Gone(ctx, id, read)
		return err
	}
	if err != nil {
		return err
	}
	_, err = i.rows.Found(ctx, c, read, i.isRemoved(id))
	return err
}

// removedKept is longer than any answer of AWS takes into the store.
const removedKept = time.Hour

// isRemoved returns what asks whether a certificate was deleted at AWS lately.
func (i *Inventory) isRemoved(id certificate.ID) func() bool {
	return func() bool {
		_, lately := i.removed.get(id)
		return lately
	}
}

// doubt has AWS's list of the device's certificates read anew if the store does
// not know that one of them is the device's.
func (i *Inventory) doubt(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	at, err := i.rows.Place(ctx, device, id)
	if err != nil || at.Was {
		return err
	}
	i.views.forget(device)
	return i.learn(ctx, device)
}

func encode(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
