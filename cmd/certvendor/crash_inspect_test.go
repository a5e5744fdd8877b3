package main

import (
	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/rotation"
)

// inspectAll holds what the devices have against what the daemon knows.
func (f *crashFleet) inspectAll() {
	f.t.Helper()
	var looking errgroup.Group
	looking.SetLimit(16)
	for _, c := range f.all() {
		looking.Go(func() error {
			f.inspect(c)
			return nil
		})
	}
	_ = looking.Wait() // what is wrong is the test's
}

// inspect holds what one device has against what the daemon knows of it: it
// works on the certificate of its one finished rotation, and all others that it
// was ever vended are on record and inactive.
func (f *crashFleet) inspect(c *crashed) {
	f.t.Helper()
	first, last := certificate.IDOf(c.first.Certificate[0]), f.works(c)
	if last == "" || first == last {
		f.t.Errorf("device %s: on %q after %s", c.name, last, first)
		return
	}
	if fleet.CanConnect(f.t.Context(), f.target, c.name, c.first) == nil {
		f.t.Errorf("device %s still connects with its first certificate", c.name)
	}
	d, err := f.client.Device(f.t.Context(), c.name)
	if err != nil {
		f.t.Error(err)
		return
	}
	if r := d.Rotations[0]; r.Certificate != last || r.State != rotation.Finished || d.Member || c.conduct != rotatesAsCDF && len(d.Rotations) != 1 {
		f.t.Errorf("device %s: member %t, rotations %+v", c.name, d.Member, d.Rotations)
	}
	standings := map[certificate.ID]certificate.Standing{}
	for _, held := range d.Certificates {
		standings[held.ID] = held.Standing
		if want := map[bool]certificate.Standing{true: certificate.Active, false: certificate.Inactive}[held.ID == last]; held.Standing != want {
			f.t.Errorf("device %s: certificate %s is %s, and works on %s", c.name, held.ID, held.Standing, last)
		}
	}
	for id := range c.received {
		if _, known := standings[id]; !known {
			f.t.Errorf("device %s was vended %s, which is not in the inventory", c.name, id)
		}
		if id != last && c.conduct != rotatesAsCDF {
			f.t.Errorf("device %s was vended %s besides %s: for one key, or one package", c.name, id, last)
		}
	}
	f.oneEach(c, d.Timeline)
}

// works returns the certificate that is on the device's disk, if the broker
// takes the device with it.
func (f *crashFleet) works(c *crashed) certificate.ID {
	f.t.Helper()
	current := c.next
	switch c.conduct {
	case rotatesAsCDF:
		return f.judged(c)
	case rotatesByCSR, rotatesByPackage:
		agent, err := f.agent(c)
		if err != nil {
			f.t.Errorf("device %s: %v", c.name, err)
			return ""
		}
		current = agent.Current()
	}
	if err := fleet.CanConnect(f.t.Context(), f.target, c.name, current); err != nil {
		f.t.Errorf("device %s: %v", c.name, err)
		return ""
	}
	return certificate.IDOf(current.Certificate[0])
}

func (f *crashFleet) judged(c *crashed) certificate.ID {
	f.t.Helper()
	verdicts, err := fleet.Judge(f.t.Context(), f.firmware(c), fleet.Report{Results: []fleet.Result{c.played}})
	if err != nil {
		f.t.Errorf("device %s: %v", c.name, err)
		return ""
	}
	if v := verdicts[0]; v.Violation != nil || !v.Rotated {
		f.t.Errorf("device %s: violation %v, and %v", c.name, v.Violation, v.Why)
		return ""
	}
	return c.played.NewID
}

// oneEach fails the test unless the audit knows of one certificate for each
// key, and of two keys where the device has no more.
func (f *crashFleet) oneEach(c *crashed, timeline []control.Event) {
	f.t.Helper()
	keys := map[string]int{}
	for _, e := range timeline {
		if e.Kind == "certificate.registered" {
			keys[e.Detail["key"]]++
		}
	}
	for key, n := range keys {
		if n != 1 || key == "" {
			f.t.Errorf("device %s: %d certificates for key %q", c.name, n, key)
		}
	}
	if len(keys) < 2 || len(keys) > 2 && c.conduct != rotatesAsCDF {
		f.t.Errorf("device %s: certificates were made for %d keys", c.name, len(keys))
	}
}
