package aws

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// hanging holds calls to an API for as long as their context lasts.
type hanging struct {
	next  http.RoundTripper
	api   string
	hangs atomic.Bool
	came  chan struct{} // one has come, and hangs
}

func (h *hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	if !h.hangs.Load() || !strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+h.api) {
		return h.next.RoundTrip(r)
	}
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
	select {
	case h.came <- struct{}{}:
	default:
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// A renewal of the lease hangs. The instance stops acting while it hangs, before
// the lease has run out and another may lead; and when the renewal is given up it
// says that it is no leader.
func TestARenewalThatHangs(t *testing.T) {
	between := &hanging{api: "UpdateItem", came: make(chan struct{}, 1)}
	clients := dialMoto(t, newAccount(), func(next http.RoundTripper) http.RoundTripper {
		between.next = next
		return between
	})
	config := testConfig("shared", clients, time.Now, t.TempDir())
	config.Sharing = Sharing{Table: "certvendor", Lease: time.Hour} // of which nothing goes by here
	s, err := StandBy(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // it says that the store is lost
	var mu sync.Mutex
	wall := time.Now().Round(0)
	s.lease.wall = func() time.Time { mu.Lock(); defer mu.Unlock(); return wall }
	epoch, err := s.lease.try(t.Context())
	if err != nil || epoch != 1 {
		t.Fatalf("epoch %d, %v", epoch, err)
	}
	clients.Quotas.whileLeading(s.lease.holds)
	ask := func() error {
		_, err := clients.STS.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		return err
	}
	between.hangs.Store(true)
	ctx, giveUp := context.WithCancel(t.Context())
	renewed := make(chan error, 1)
	go func() { renewed <- s.lease.renew(ctx) }()
	<-between.came
	if err := ask(); err != nil || !s.Leads() {
		t.Fatalf("while its lease lasts: %v", err)
	}
	mu.Lock()
	wall = wall.Add(time.Hour*(beats-1)/beats + 1)
	mu.Unlock()
	if err := ask(); !errors.Is(err, errLease) || s.Leads() {
		t.Errorf("before its lease has run out, with a renewal that hangs, it calls AWS: %v", err)
	}
	if len(renewed) > 0 {
		t.Error("the renewal does not hang")
	}
	giveUp()
	if err := <-renewed; !errors.Is(err, errLease) {
		t.Errorf("the renewal: %v", err)
	}
}

// The one that leads gives a renewal up that hangs for ever, and fails.
func TestARenewalIsGivenUp(t *testing.T) {
	between := &hanging{api: "UpdateItem", came: make(chan struct{}, 1)}
	clients := dialMoto(t, newAccount(), func(next http.RoundTripper) http.RoundTripper {
		between.next = next
		return between
	})
	config := testConfig("shared", clients, time.Now, t.TempDir())
	config.Sharing = Sharing{Table: "certvendor", Lease: time.Hour}
	s, err := StandBy(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Lead(t.Context()); err != nil {
		t.Fatal(err)
	}
	between.hangs.Store(true)
	s.lease.lasts = time.Second
	ctx, end := context.WithCancel(t.Context())
	defer end()
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	if err := <-s.Failed(); !errors.Is(err, errLease) || s.Leads() {
		t.Errorf("it has failed with %v", err)
	}
	end()
	<-ended
}

// counted notes which calls come by.
type counted struct {
	next http.RoundTripper
	mu   sync.Mutex
	all  map[string]int // the table's by their name, others by path
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	what := r.Method + " " + r.URL.Path
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		_, what, _ = strings.Cut(target, ".")
	}
	c.mu.Lock()
	c.all[what]++
	c.mu.Unlock()
	return c.next.RoundTrip(r)
}

func (c *counted) n(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[what]
}

// An instance that stands by reads the table, and does nothing else at AWS: no
// sweep, no job, no certificate, and nothing is written. Once it leads it may.
func TestWhoStandsByOnlyReads(t *testing.T) {
	account := newAccount()
	shared := Sharing{Table: "certvendor", Lease: time.Hour}
	standBy := func(between func(http.RoundTripper) http.RoundTripper) *Shared {
		clients := dialMoto(t, account, between)
		config := testConfig(account, clients, time.Now, t.TempDir())
		config.Sharing = shared
		s, err := StandBy(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	leader := standBy(nil)
	if err := leader.Lead(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls := &counted{all: map[string]int{}}
	standby := standBy(func(next http.RoundTripper) http.RoundTripper { calls.next = next; return calls })
	t.Cleanup(func() { _ = standby.Close() })
	for range 20 { // it follows what the leader writes
		if err := leader.store.SetMeta(t.Context(), "a", rand.Text()); err != nil {
			t.Fatal(err)
		}
		if epoch, err := standby.step(t.Context()); err != nil || epoch != 0 || standby.Entry() != leader.Entry() {
			t.Fatalf("epoch %d, at entry %d of %d, %v", epoch, standby.Entry(), leader.Entry(), err)
		}
	}
	calls.mu.Lock()
	for what, n := range calls.all {
		if what != "GetItem" && what != "Query" && what != "DescribeTable" {
			t.Errorf("who stands by has called %s %d times", what, n)
		}
	}
	calls.mu.Unlock()
	if calls.n("GetItem") == 0 {
		t.Error("it does not look at the lease")
	}

	if err := errors.Join(leader.Close(), standby.Lead(t.Context())); err != nil { // at once: the lease is given up
		t.Fatal(err)
	}
	if _, err := standby.config.Clients.IoT.ListThings(t.Context(), &iot.ListThingsInput{}); err != nil || calls.n("PutItem") == 0 {
		t.Errorf("who leads may not act: %v, %v", err, calls.all)
	}
}
