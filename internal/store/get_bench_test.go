package store_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/store/storetest"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// BenchmarkGet is the store's part of a get: all that is read before, and the
// commit. Each device has a certificate, and asks six times.
func BenchmarkGet(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{Path: b.TempDir() + "/store.db", Instance: "one", AuditDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const gets = 6
	var devices []registry.DeviceID
	for i := range b.N/gets + 256 { // nobody else asks for the same
		devices = append(devices, registry.DeviceID(fmt.Sprintf("d%08d", i)))
	}
	for _, id := range devices {
		if err := s.Write(b.Context(), `INSERT INTO devices VALUES ('`+string(id)+`', 0, 0)`); err != nil {
			b.Fatal(err)
		}
	}
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	began := processor(b)
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for more := true; more; {
			id := devices[next.Add(1)]
			for range gets {
				if more = pb.Next(); !more {
					return
				}
				if err := getOnce(b.Context(), s, id); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.ReportMetric(float64(s.Commits()), "commits")
	b.ReportMetric(float64(processor(b)-began)/float64(b.N), "cpu-ns/op")
}

// processor returns the processor time of this process so far: what others take
// on the same machine is not in it.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var keys atomic.Int64

func getOnce(ctx context.Context, s *store.Store, id registry.DeviceID) error {
	if _, err := s.Devices().Device(ctx, id); err != nil {
		return err
	}
	h, err := s.Journal().Find(ctx, id)
	if err != nil {
		return err
	}
	if _, err := s.Certificates().Held(ctx, id); err != nil {
		return err
	}
	if _, err := s.Brakes().Frozen(ctx); err != nil {
		return err
	}
	c := fake(fmt.Sprint("c", keys.Add(1)))
	if _, err := s.Certificates().List(ctx, certificate.Query{Key: c.Key}); err != nil {
		return err
	}
	now := time.Now()
	next := rotation.Rotation{
		Device: id, Number: h.Next(), State: rotation.Intended, Opened: now, Key: c.Key,
		Lease: rotation.Lease{Instance: "one", Until: now.Add(rotation.LeaseTime)},
	}
	var before *rotation.Rotation
	if r := h.Current(); r != nil {
		before = r
	}
	r, err := s.Journal().Open(ctx, next, before)
	if err != nil {
		return err
	}
	r.State, r.Certificate = rotation.Issued, c.ID
	if r, err = s.Journal().Advance(ctx, rotation.Change{Rotation: r, Certificate: &c}); err != nil {
		return err
	}
	if err := s.Certificates().Register(ctx, id, c); err != nil {
		return err
	}
	r.State, r.VendedAt, r.Lease = rotation.Vended, time.Now(), rotation.Lease{}
	_, err = s.Journal().Advance(ctx, rotation.Change{Rotation: r})
	return err
}

// BenchmarkGetAlone is a get whose commit carries nothing else, in a store of
// 20,000 devices, where each replaces the vend before it. It counts the pages that
// such a commit writes to the log, as long as no checkpoint begins that anew: run
// it with -benchtime 100x.
func BenchmarkGetAlone(b *testing.B) {
	const devices = 20_000
	path := b.TempDir() + "/store.db"
	if err := storetest.Fill(b.Context(), path, devices, time.Now()); err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(b.Context(), store.Config{Path: path, Instance: "one"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	gets := func() int64 {
		for i := range b.N {
			id := registry.DeviceID(fmt.Sprintf("device-%07d", 1+i*7919%devices)) // all over the table
			if err := getOnce(b.Context(), s, id); err != nil {
				b.Fatal(err)
			}
		}
		log, err := os.Stat(path + "-wal")
		if err != nil {
			b.Fatal(err)
		}
		return log.Size()
	}
	before := gets()
	b.ResetTimer()
	const page = 4096 + 24 // with its header in the log
	b.ReportMetric(float64(gets()-before)/page/float64(b.N), "pages/op")
}
