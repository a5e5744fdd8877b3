package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/registry"
)

// demo plays a fleet against a world that runs.
type demo struct {
	*cli
	daemon *control.Client
	dir    string
	broker string
}

// summary is what `demo --json` prints.
type summary struct {
	Devices            int     `json:"devices"`
	Rotated            int     `json:"rotated"`
	Failed             int     `json:"failed"`
	Seconds            float64 `json:"seconds"`
	RotationsPerSecond float64 `json:"rotationsPerSecond"`
	P50Millis          float64 `json:"p50Millis"`
	P99Millis          float64 `json:"p99Millis"`
}

// demoResult is how the demo went, in numbers and for people.
type demoResult struct {
	summary
	kinds []kindResult
	notes []string // what was tried and refused
	wrong []string // what went wrong, by device
}

// kindResult is how it went with the devices of one kind.
type kindResult struct {
	kind            string
	devices, failed int
	latency         fleet.Latency
}

// play makes the devices, lets them rotate, and looks at how they ended.
func (d demo) play(ctx context.Context, n int) (demoResult, error) {
	roots := x509.NewCertPool()
	pem, err := d.daemon.Roots(ctx)
	if err != nil {
		return demoResult{}, err
	}
	if !roots.AppendCertsFromPEM([]byte(pem)) {
		return demoResult{}, errors.New("the daemon's roots are not readable")
	}
	devices, err := d.provision(ctx, n)
	if err != nil {
		return demoResult{}, err
	}
	bar := newProgress(d.errs, "rotate", n)
	var counting sync.Mutex
	options := fleet.Options{
		Target:  fleet.Target{Broker: d.broker, Roots: roots},
		Devices: devices, Directory: filepath.Join(d.dir, "devices"), Concurrency: demoAtOnce,
		Retry:         device.Retry{Base: 100 * time.Millisecond, Max: 2 * time.Second, Reply: 45 * time.Second},
		RefusedWithin: demoRefused,
		Done: func(fleet.Result) {
			counting.Lock()
			defer counting.Unlock()
			bar.step()
		},
	}
	if err := d.join(ctx, devices); err != nil {
		return demoResult{}, err
	}
	report, err := fleet.Run(ctx, options)
	bar.clear()
	if err != nil {
		return demoResult{}, err
	}
	result := d.judge(report, devices, fleet.Verify(ctx, options, report))
	if result.Failed > 0 {
		result.explain(ctx, d.daemon)
	}
	return result, nil
}

// explain adds why the world has kept what it should have taken away.
func (r *demoResult) explain(ctx context.Context, daemon *control.Client) {
	for s, err := range daemon.Stuck(ctx) {
		if err != nil {
			r.wrong = append(r.wrong, err.Error())
			return
		}
		r.wrong = append(r.wrong, fmt.Sprintf("%s: %s of %s stuck: %s", s.Device, s.What, short(s.Certificate), s.Why))
	}
}

// provision gives every device its first certificate, and some a package.
func (d demo) provision(ctx context.Context, n int) ([]fleet.Device, error) {
	devices := make([]fleet.Device, n)
	var working errgroup.Group
	working.SetLimit(demoAtOnce)
	for i := range devices {
		working.Go(func() (err error) {
			devices[i], err = d.make(ctx, cast(i))
			return err
		})
	}
	return devices, working.Wait()
}

// cast says what the i-th device is: most have an agent; from the second on,
// one of each of the others, then a few more by package and with firmware as
// it is found in the field.
func cast(i int) fleet.Device {
	d := fleet.Device{Name: fmt.Sprintf("demo-%05d", i+1), Firmware: fleet.Agent, Flow: device.ByCSR}
	switch {
	case i == 1:
		d.Firmware = fleet.EarlyAcker
	case i == 2:
		d.Firmware, d.Victim = fleet.Impersonator, "demo-00001"
	case i%4 == 3:
		d.Flow = device.ByPackage
	case i%10 == 8:
		d.Firmware = fleet.CDF
	}
	return d
}

func (d demo) make(ctx context.Context, played fleet.Device) (fleet.Device, error) {
	key, err := newKey()
	if err != nil {
		return played, err
	}
	csr, err := control.NewRequest(key.signer, registry.DeviceID(played.Name))
	if err != nil {
		return played, err
	}
	added, err := d.daemon.AddDevice(ctx, control.AddRequest{Name: played.Name, CSR: csr})
	if err != nil {
		return played, err
	}
	played.Certificate, played.Key = []byte(added.Certificate), key.pem
	if played.Flow == device.ByPackage {
		_, err = d.daemon.CreatePackage(ctx, played.Name)
	}
	return played, err
}

func (d demo) join(ctx context.Context, devices []fleet.Device) error {
	names := make([]string, len(devices))
	for i, played := range devices {
		names[i] = played.Name
	}
	var refused error
	err := d.daemon.Join(ctx, names, func(o control.Outcome) {
		if o.Error != "" {
			refused = errors.Join(refused, errors.New(o.Error))
		}
	})
	return errors.Join(err, refused)
}

// judge counts a device as rotated only if it works with its new certificate
// and not with its old one.
func (d demo) judge(report fleet.Report, devices []fleet.Device, violations []fleet.Violation) demoResult {
	bad := map[string]bool{}
	var result demoResult
	for _, v := range violations {
		bad[v.Device] = true
		result.wrong = append(result.wrong, fmt.Sprintf("%s: %v", v.Device, v.Err))
	}
	byKind := map[string]*fleet.Report{}
	for i, r := range report.Results {
		if r.Err != nil && !bad[r.Device] {
			result.wrong = append(result.wrong, r.Err.Error())
		}
		if r.Err != nil || !r.Rotated || !r.Acked {
			bad[r.Device] = true
		}
		for _, note := range r.Notes {
			result.notes = append(result.notes, r.Device+": "+note)
		}
		kind := kindOf(devices[i])
		if byKind[kind] == nil {
			byKind[kind] = &fleet.Report{}
		}
		byKind[kind].Results = append(byKind[kind].Results, r)
	}
	for kind, part := range byKind {
		k := kindResult{kind: kind, devices: len(part.Results), latency: part.Latency(total)}
		for _, r := range part.Results {
			if bad[r.Device] {
				k.failed++
			}
		}
		result.kinds = append(result.kinds, k)
	}
	slices.SortFunc(result.kinds, func(a, b kindResult) int { return cmp.Compare(a.kind, b.kind) })
	all := report.Latency(total)
	result.summary = summary{
		Devices: len(devices), Rotated: len(devices) - len(bad), Failed: len(bad),
		Seconds: round(report.Took.Seconds()), P50Millis: round(all.P50), P99Millis: round(all.P99),
	}
	if result.Seconds > 0 {
		result.RotationsPerSecond = round(float64(result.Rotated) / report.Took.Seconds())
	}
	return result
}

func total(t fleet.Timing) time.Duration { return t.Total }

// round keeps three digits behind the point.
func round(x float64) float64 { return math.Round(x*1000) / 1000 }

func kindOf(d fleet.Device) string {
	if d.Flow == device.ByPackage {
		return string(d.Firmware) + ",package"
	}
	return string(d.Firmware) + ",csr"
}

// words shows how it went to people.
func (r demoResult) words(w io.Writer) {
	for _, note := range r.notes {
		fmt.Fprintln(w, note)
	}
	for _, wrong := range r.wrong {
		fmt.Fprintln(w, "FAILED "+wrong)
	}
	if len(r.notes)+len(r.wrong) > 0 {
		fmt.Fprintln(w)
	}
	millis := func(m float64) string { return strconv.FormatFloat(m, 'f', 0, 64) }
	table(w, "FIRMWARE DEVICES ROTATED FAILED P50_MS P99_MS", r.kinds, func(k kindResult) []string {
		return []string{
			k.kind, strconv.Itoa(k.devices), strconv.Itoa(k.devices - k.failed), strconv.Itoa(k.failed),
			millis(k.latency.P50), millis(k.latency.P99),
		}
	})
	fmt.Fprintf(w, "\n%d of %d devices rotated in %.1f s, %.1f a second; every old certificate that was replaced was tried\n",
		r.Rotated, r.Devices, r.Seconds, r.RotationsPerSecond)
}
