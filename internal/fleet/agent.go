package fleet

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/certvendor/certvendor/device"
)

// playAgent lets package device carry out one job.
func (o Options) playAgent(ctx context.Context, d Device, r *Result) error {
	directory := filepath.Join(o.Directory, d.Name)
	err := device.Provision(directory, d.Certificate, d.Key)
	if err != nil && !errors.Is(err, device.ErrProvisioned) {
		return err
	}
	var watch stopwatch
	a, err := device.New(device.Config{
		Device: d.Name, Broker: o.Broker, Roots: o.Roots, PackageRoots: o.PackageRoots,
		Directory: directory, Topics: o.Topics, Flow: d.Flow, Retry: o.Retry,
		Event: watch.note,
	})
	if err != nil {
		return err
	}
	r.old = a.Current()
	err = a.RunOnce(ctx)
	r.current, r.Timing, r.Acked = a.Current(), watch.timing, watch.acked
	return err
}

// stopwatch reads the timing off a device's events.
type stopwatch struct {
	job, asked, stored time.Time
	acked              bool
	timing             Timing
}

func (w *stopwatch) note(e device.Event) {
	switch e.Kind {
	case device.JobReceived:
		w.job = first(w.job, e.Time)
	case device.Asked:
		w.asked = first(w.asked, e.Time)
	case device.CertificateStored:
		w.timing.Get, w.stored, w.asked = e.Time.Sub(w.asked), e.Time, time.Time{}
	case device.CandidateConnected:
		w.timing.Connect = e.Time.Sub(first(w.stored, e.Time))
	case device.Acknowledged:
		w.timing.Ack, w.acked = e.Time.Sub(w.asked), true
	case device.Promoted:
		w.timing.Total = e.Time.Sub(first(w.job, e.Time))
	}
}

// first returns the earlier moment, where it is known.
func first(earlier, later time.Time) time.Time {
	if earlier.IsZero() {
		return later
	}
	return earlier
}
