// Package fleet plays devices: firmware that works as it should, firmware as
// it is found in the field, and people who try to speak for others. The demo,
// the simulation and tests use it; every device speaks real MQTT over real TLS
// with a key of its own.
//
// Read this file, then firmware.go (what a kind of firmware is), agent.go and
// cdf.go (the two kinds), actors.go (who behaves badly) and verify.go (whether
// all ended well). What goes wrong is in faults.go (what, and the plan of it),
// script.go (how a plan comes true), wire.go (a device's network) and judge.go
// (the disks against the inventory).
package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/protocol"
)

// Target is the world the devices live in. Broker and Roots are required.
type Target struct {
	Broker       string // host:port, TLS
	Roots        *x509.CertPool
	PackageRoots *x509.CertPool  // Roots if nil
	Topics       protocol.Topics // protocol.DefaultTopics if zero
}

// Device is one provisioned device.
type Device struct {
	Name        string
	Certificate []byte // PEM, the leaf first: the first certificate
	Key         []byte // PEM
	Firmware    Firmware
	Flow        device.Flow // ByCSR if empty; ByPackage for Agent only
	AckEarly    bool        // CDF: acks over the old connection, and never again
	Victim      string      // Impersonator: whom it tries to speak for
	// Plan is what will go wrong, for Agent and CDF; nil: nothing, and the device
	// has one try. With a plan the device keeps its pairs in Options.Directory,
	// is started again after whatever went wrong, and joins the rotation group
	// when it starts, so that no job waits for a device that is not there.
	Plan *Plan
	// InstallDelay is how long a device with a plan stays on its old certificate
	// after the vend.
	InstallDelay time.Duration
	// Joined says that a device with a plan is in the rotation group already.
	Joined bool
}

// Options say which devices are played, and how.
type Options struct {
	Target
	Devices []Device
	// Directory is where agents keep their keys, each in a folder of its name.
	// A device whose folder is there goes on from it.
	Directory string
	// Concurrency is how many devices are at work at a time; 0 is all.
	Concurrency int
	// Retry paces the agents; what is zero is as in package device. CDF firmware
	// takes from it how long to wait for an answer.
	Retry device.Retry
	// RefusedWithin is how soon after an acknowledged rotation the broker must
	// refuse the old certificate, for Verify. 0 leaves the old one alone: trying
	// it, where it is still taken, would count as using it.
	RefusedWithin time.Duration
	// Operator is required for devices with a plan, and for Judge.
	Operator Operator
	// TTL is after how long the vendor calls a rotation stale, for
	// AckAfterTTL, where a device can wait so long; 0: it waits a second.
	TTL time.Duration
	// Stay is how long a device with a plan stays connected when it has rotated,
	// and carries out further jobs.
	Stay time.Duration
	// Done is told each result as it comes, from any goroutine; may be nil.
	Done func(Result)

	now func() time.Time // a device's clock; nil: the right one
}

// Result is how it went for one device.
type Result struct {
	Device   string
	Firmware Firmware
	Rotated  bool // the device works with another certificate than before
	Acked    bool // and the vendor took its ack
	OldID    certificate.ID
	NewID    certificate.ID // of the certificate in use at the end
	Timing
	Received []certificate.ID // every certificate it was given, in order; one may come again
	Notes    []string         // what was tried and refused, for people
	Again    int              // rotations after the first, while it stayed
	Faults   []Fault          // what of its plan came true, as far as it is a moment's
	Err      error

	old, current tls.Certificate
}

// Timing is how long the parts of a rotation took; zero where a part did not
// happen.
type Timing struct {
	Total   time.Duration // from the job to the end
	Connect time.Duration // with the new certificate
	Get     time.Duration // from the request to the stored certificate
	Ack     time.Duration // from the request to its answer
}

// Report is how it went for all, in the order of Options.Devices.
type Report struct {
	Results []Result
	Rotated int
	Failed  int
	Took    time.Duration
}

// Provision puts a device's first pair on its disk, unless its disk is there
// already, as Run would at its start.
func (o Options) Provision(d Device) error {
	if d.Firmware != CDF && d.Firmware != EarlyAcker {
		return o.provision(d)
	}
	first, err := tls.X509KeyPair(d.Certificate, d.Key)
	if err != nil {
		return fmt.Errorf("device %s: read its first certificate: %w", d.Name, err)
	}
	return o.provisionSlot(d, first)
}

// Run plays the devices: each waits for its rotation job and does what its
// firmware does. It returns when all have ended or ctx has; a device that
// failed is in the report, not an error.
func Run(ctx context.Context, o Options) (Report, error) {
	if err := o.validate(); err != nil {
		return Report{}, err
	}
	if o.Topics == (protocol.Topics{}) {
		o.Topics = protocol.DefaultTopics()
	}
	started := time.Now()
	report := Report{Results: make([]Result, len(o.Devices))}
	var group errgroup.Group
	if o.Concurrency > 0 {
		group.SetLimit(o.Concurrency)
	}
	for i, d := range o.Devices {
		group.Go(func() error {
			report.Results[i] = o.play(ctx, d)
			if o.Done != nil {
				o.Done(report.Results[i])
			}
			return nil
		})
	}
	_ = group.Wait() // no device returns an error
	report.Took = time.Since(started)
	for _, r := range report.Results {
		if r.Err == nil && r.Rotated {
			report.Rotated++
		} else {
			report.Failed++
		}
	}
	return report, nil
}

func (o Options) validate() error {
	if o.Broker == "" || o.Roots == nil {
		return errors.New("play a fleet: a broker and the roots that verify it are required")
	}
	for _, d := range o.Devices {
		if err := d.validate(o); err != nil {
			return err
		}
	}
	return nil
}
