package webhook_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/webhook"
)

const secret = "a secret of the receiver's"

// delivery is what a receiver has got.
type delivery struct {
	header http.Header
	body   []byte
}

// receiver is a real HTTPS server; answer says what it answers to which attempt.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []delivery
}

func receive(t *testing.T, answer func(attempt int, w http.ResponseWriter)) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			t.Error(err)
		}
		r.mu.Lock()
		r.got = append(r.got, delivery{request.Header, body})
		n := len(r.got)
		r.mu.Unlock()
		answer(n, w)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]delivery{}, r.got...)
}

func (r *receiver) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(r.Certificate())
	return pool
}

// box is a store that may be closed and opened again.
type box struct {
	*store.Store
	t    *testing.T
	path string
}

func newBox(t *testing.T) *box {
	t.Helper()
	b := &box{t: t, path: filepath.Join(t.TempDir(), "store.db")}
	b.open()
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func (b *box) open() {
	b.t.Helper()
	var err error
	b.Store, err = store.Open(b.t.Context(), store.Config{Path: b.path, Instance: "one", Tells: func(kind string) bool { return kind == "news" }})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) tell(topic string) {
	b.t.Helper()
	if err := b.Outbox().Tell(b.t.Context(), topic, "once", "news", map[string]string{"topic": topic}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) waiting() int {
	b.t.Helper()
	n, err := b.Outbox().Waiting(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// sending runs a sender, and returns what ends it.
type sending struct {
	end    func()
	log    *bytes.Buffer
	counts map[webhook.Outcome]int
}

func (b *box) send(r *receiver, change ...func(*webhook.Config)) *sending {
	b.t.Helper()
	s := &sending{log: &bytes.Buffer{}, counts: map[webhook.Outcome]int{}}
	c := webhook.Config{
		URL: r.URL + "/hook?token=hush", Secret: secret, Roots: r.roots(), Keep: time.Hour, Outbox: b.Outbox(), Now: time.Now,
		Log: zerolog.New(s.log), Count: func(what webhook.Outcome, n int) { s.counts[what] += n },
	}
	for _, f := range change {
		f(&c)
	}
	sender, err := webhook.New(c)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	var working sync.WaitGroup
	working.Go(func() { sender.Run(ctx) })
	s.end = func() {
		cancel()
		working.Wait()
	}
	b.t.Cleanup(s.end)
	return s
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("not so: %s", what)
		}
	}
}

// TestDelivery has a receiver fail twice and then take it, with a restart in
// between: the event is the same each time, and signed each time.
func TestDelivery(t *testing.T) {
	r := receive(t, func(attempt int, w http.ResponseWriter) {
		if attempt <= 2 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	b := newBox(t)
	b.tell("one")
	first := b.send(r)
	eventually(t, "it was tried", func() bool { return attempts(t, b) == 1 })
	first.end()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.open()
	if b.waiting() != 1 {
		t.Fatal("it was forgotten")
	}
	second := b.send(r)
	eventually(t, "it was taken", func() bool { return b.waiting() == 0 })
	second.end()
	got := r.all()
	if len(got) != 3 || first.counts[webhook.Failed] != 1 || second.counts[webhook.Failed] != 1 || second.counts[webhook.Delivered] != 1 {
		t.Fatalf("%d attempts; %v, %v", len(got), first.counts, second.counts)
	}
	var event webhook.Event
	if err := json.Unmarshal(got[0].body, &event); err != nil || event.Event != "news" || event.Detail["topic"] != "one" || event.At.IsZero() || len(event.ID) != 32 {
		t.Errorf("%s, %v", got[0].body, err)
	}
	for _, d := range got {
		signature := d.header.Get(webhook.SignatureHeader)
		if !bytes.Equal(d.body, got[0].body) || d.header.Get(webhook.IDHeader) != event.ID || d.header.Get(webhook.EventHeader) != "news" {
			t.Errorf("another event: %s", d.body)
		}
		now := time.Now()
		if err := webhook.Verify(secret, signature, d.body, now, 5*time.Minute); err != nil {
			t.Error(err)
		}
		for what, err := range map[string]error{
			"another secret":    webhook.Verify("another secret of somebody", signature, d.body, now, 5*time.Minute),
			"another body":      webhook.Verify(secret, signature, append([]byte(" "), d.body...), now, 5*time.Minute),
			"a replay":          webhook.Verify(secret, signature, d.body, now.Add(6*time.Minute), 5*time.Minute),
			"another time":      webhook.Verify(secret, strings.Replace(signature, "t=1", "t=2", 1), d.body, now, 50*365*24*time.Hour),
			"from the future":   webhook.Verify(secret, signature, d.body, now.Add(-6*time.Minute), 5*time.Minute),
			"no signature":      webhook.Verify(secret, "", d.body, now, 5*time.Minute),
			"half a signature":  webhook.Verify(secret, signature[:len(signature)-2], d.body, now, 5*time.Minute),
			"an odd signature":  webhook.Verify(secret, signature+"x", d.body, now, 5*time.Minute),
			"an empty hex code": webhook.Verify(secret, "t=1,v1=", d.body, time.Unix(1, 0), 5*time.Minute),
		} {
			if !errors.Is(err, webhook.ErrSignature) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	for _, log := range []string{first.log.String(), second.log.String()} {
		if strings.Contains(log, "hush") || strings.Contains(log, "/hook") || strings.Contains(log, secret) || !strings.Contains(log, event.ID) {
			t.Errorf("the log:\n%s", log)
		}
	}
}

// attempts returns how often the oldest notice was tried.
func attempts(t *testing.T, b *box) int {
	t.Helper()
	due, err := b.Outbox().Due(t.Context(), time.Now().Add(24*time.Hour), 1)
	if err != nil || len(due) != 1 {
		t.Fatal(due, err)
	}
	return due[0].Attempts
}

// TestWhatIsNoDelivery has receivers that do not take it, each for a reason of
// its own, and sees that the reason is logged without the URL.
func TestWhatIsNoDelivery(t *testing.T) {
	elsewhere := receive(t, func(int, http.ResponseWriter) {})
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		change func(*webhook.Config)
		want   string
	}{
		"it redirects": {
			func(w http.ResponseWriter) {
				w.Header().Set("Location", elsewhere.URL)
				w.WriteHeader(http.StatusTemporaryRedirect)
			},
			func(*webhook.Config) {}, "answered 307: redirects are not followed",
		},
		"it redirects nowhere, and repeats what it was asked": {
			func(w http.ResponseWriter) {
				w.Header().Set("Location", "https://%zz/hook?hush")
				w.WriteHeader(http.StatusFound)
			},
			func(*webhook.Config) {}, "answered 302: redirects are not followed",
		},
		"it refuses":          {func(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) }, func(*webhook.Config) {}, "answered 401"},
		"nobody vouches":      {func(http.ResponseWriter) {}, func(c *webhook.Config) { c.Roots = x509.NewCertPool() }, "certificate signed by unknown authority"},
		"it hangs up":         {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, func(*webhook.Config) {}, "EOF"},
		"nobody listens":      {func(http.ResponseWriter) {}, func(c *webhook.Config) { c.URL = "https://127.0.0.1:1/hook?hush" }, "connection refused"},
		"its header is large": {func(w http.ResponseWriter) { w.Header().Set("X", strings.Repeat("x", 128<<10)) }, func(*webhook.Config) {}, "response headers exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			r := receive(t, func(_ int, w http.ResponseWriter) { c.answer(w) })
			b := newBox(t)
			b.tell("one")
			s := b.send(r, c.change)
			eventually(t, "it was tried", func() bool { return attempts(t, b) > 0 })
			s.end()
			if log := s.log.String(); !strings.Contains(log, c.want) || strings.Contains(log, "hush") || strings.Contains(log, "hook?") {
				t.Errorf("the log: %s", log)
			}
			if b.waiting() != 1 || s.counts[webhook.Delivered] != 0 {
				t.Errorf("%d wait, %v", b.waiting(), s.counts)
			}
		})
	}
	if n := len(elsewhere.all()); n != 0 {
		t.Errorf("the redirect was followed %d times", n)
	}
}

// A receiver that answers without an end takes an event all the same, and no
// more of its answer is read than a little.
func TestEndlessAnswer(t *testing.T) {
	ended := make(chan struct{})
	r := receive(t, func(_ int, w http.ResponseWriter) {
		defer close(ended)
		for chunk := bytes.Repeat([]byte("x"), 64<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	b := newBox(t)
	b.tell("one")
	s := b.send(r)
	eventually(t, "it was taken", func() bool { return b.waiting() == 0 })
	<-ended
	s.end()
}

// What nobody takes is dropped when it is too old, and counted.
func TestDropped(t *testing.T) {
	r := receive(t, func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) })
	b := newBox(t)
	b.tell("one")
	b.tell("two")
	s := b.send(r, func(c *webhook.Config) { c.Now = func() time.Time { return time.Now().Add(c.Keep + time.Minute) } })
	eventually(t, "both were dropped", func() bool { return b.waiting() == 0 })
	s.end()
	if s.counts[webhook.Dropped] != 2 || len(r.all()) != 0 || !strings.Contains(s.log.String(), `"events":2`) {
		t.Errorf("%v, %d attempts: %s", s.counts, len(r.all()), s.log)
	}
}

// A topic is told once, and a kind that nobody wants not at all.
func TestTell(t *testing.T) {
	b := newBox(t)
	b.tell("one")
	b.tell("one")
	if err := b.Outbox().Tell(t.Context(), "other", "x", "unwanted", nil); err != nil {
		t.Fatal(err)
	}
	if n := b.waiting(); n != 1 {
		t.Errorf("%d wait", n)
	}
	if told, err := b.Outbox().Told(t.Context(), "other"); err != nil || told != "x" {
		t.Errorf("%q, %v", told, err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []webhook.Config{
		{URL: "http://x/hush", Secret: secret}, {URL: "https:///hush", Secret: secret}, {URL: "https://x:hush", Secret: secret},
		{URL: "https://x/", Secret: "hush"},
	} {
		if _, err := webhook.New(c); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v", c.URL, err)
		}
	}
}
