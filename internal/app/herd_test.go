package app

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// replies collects what the handler publishes, by topic.
type replies struct {
	mu      sync.Mutex
	byTopic map[string][][]byte
}

func (r *replies) Publish(_ context.Context, topic string, payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byTopic[topic] = append(r.byTopic[topic], payload)
	return nil
}

func (r *replies) on(topic string) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.byTopic[topic])
}

// herd is a daemon without connections: requests are handed to its handler.
type herd struct {
	*testing.T
	*App
	replies replies
}

func newHerd(t *testing.T) *herd {
	dir := t.TempDir()
	c := config.Default()
	c.Standalone.Data = filepath.Join(dir, "data")
	c.Control.Socket = filepath.Join(dir, "sock", "s")
	c.Metrics.Listen, c.Standalone.Broker.Listen, c.Standalone.Packages.Listen = "", "127.0.0.1:0", "127.0.0.1:0"
	a, err := New(t.Context(), c, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	h := &herd{T: t, App: a, replies: replies{byTopic: map[string][][]byte{}}}
	a.handler.Publisher = &h.replies
	// More patience than can be configured: no test fails on a time.
	queue := backend.NewQueue(runtime.NumCPU(), 20*time.Minute)
	a.handler.Queue = queue
	t.Cleanup(func() {
		if err := queue.Wait(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

// device registers a device and returns its request for a certificate.
func (h *herd) device(name string) []byte {
	if err := h.backend.Registrar.Add(h.Context(), registry.DeviceID(name), nil); err != nil {
		h.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		h.Fatal(err)
	}
	return fmt.Appendf(nil, `{"csr":%q}`, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
}

func (h *herd) get(name string, request []byte) time.Duration {
	started := time.Now()
	h.handler.Serve(h.Context(), vending.Message{
		Topic: h.config.Topics().Request(name, protocol.Get), Payload: request,
	})
	return time.Since(started)
}

// TestHerd has 5,000 devices wake at once. With patience each is served, late
// rather than never: their firmware may not be able to read a refusal.
func TestHerd(t *testing.T) {
	h := newHerd(t)
	devices := 5000
	if testing.Short() || backendtest.RaceDetector {
		devices = 500
	}
	requests := map[string][]byte{}
	for i := range devices {
		name := fmt.Sprintf("herd-%04d", i)
		requests[name] = h.device(name)
	}
	started := time.Now()
	var all sync.WaitGroup
	for name, request := range requests {
		all.Go(func() { h.get(name, request) })
	}
	all.Wait()
	t.Logf("%d devices served in %s", devices, time.Since(started).Round(time.Millisecond))
	for name := range requests {
		accepted := h.replies.on(h.config.Topics().Accepted(name, protocol.Get))
		rejected := h.replies.on(h.config.Topics().Rejected(name, protocol.Get))
		if len(accepted) != 1 || len(rejected) != 0 {
			t.Fatalf("%s: %d accepted, rejected %s", name, len(accepted), rejected)
		}
	}
}

// TestLooper measures what others notice of a device that asks in a loop. It
// fails if one of them is not served; the times are for people.
func TestLooper(t *testing.T) {
	h := newHerd(t)
	looping := h.device("looper")
	measure := func(prefix string) (p99 time.Duration) {
		const devices = 300
		requests := make([][]byte, devices)
		for i := range requests {
			requests[i] = h.device(fmt.Sprintf("%s-%03d", prefix, i))
		}
		var took []time.Duration
		for i, request := range requests {
			name := fmt.Sprintf("%s-%03d", prefix, i)
			took = append(took, h.get(name, request))
			if n := len(h.replies.on(h.config.Topics().Accepted(name, protocol.Get))); n != 1 {
				t.Fatalf("%s was not served", name)
			}
		}
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	alone := measure("alone")
	stop, looped := make(chan struct{}), 0
	var loop sync.WaitGroup
	loop.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				h.get("looper", looping)
				looped++
			}
		}
	})
	beside := measure("beside")
	close(stop)
	loop.Wait()
	limited := 0
	for _, reply := range h.replies.on(h.config.Topics().Rejected("looper", protocol.Get)) {
		var r protocol.Rejected
		if err := protocol.Decode(reply, &r); err != nil || r.Message != protocol.TooManyRequests || r.RetryAfter < 1 {
			t.Fatalf("the looper was told %s", reply)
		}
		limited++
	}
	if limited == 0 {
		t.Fatal("the looper was never limited")
	}
	t.Logf("p99 of the others: %s alone, %s beside a device that asked %d times and was limited %d times", alone, beside, looped, limited)
}
