package app_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/protocol"
)

// exhaust leaves this process no file descriptor. one gives one back, all all.
func exhaust(t *testing.T) (one, all func()) {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	highest := 0
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			highest = max(highest, n)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: uint64(highest + 4), Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	var held []*os.File
	one = func() {
		if len(held) > 0 {
			_ = held[len(held)-1].Close()
			held = held[:len(held)-1]
		}
	}
	all = sync.OnceFunc(func() {
		for len(held) > 0 {
			one()
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(all)
	for {
		f, err := os.Open(os.DevNull)
		if errors.Is(err, syscall.EMFILE) {
			return one, all
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
}

// TestNoFileDescriptors shows that a daemon that can open nothing more answers
// those who are connected, and goes on accepting when it can.
func TestNoFileDescriptors(t *testing.T) {
	w := start(t, nil)
	in, out := w.actor(t, "in"), w.actor(t, "out")
	over := w.open(t, "in", "in", in.old)
	w.becomes(http.StatusOK)
	one, all := exhaust(t)
	in.get(t, over)

	one() // for this end of a connection; there is none for the other
	type result struct {
		code byte
		err  error
	}
	connected := make(chan result, 1)
	go func() {
		_, code, err := w.knock(t, &out.old, "out")
		connected <- result{code, err}
	}()
	eventually(t, "a connection cannot be accepted", func() bool { return w.app.AcceptErrors() > 0 })
	over.quiet()
	over.refusedAs(protocol.NotProven, protocol.Ack, "{}") // it was the old certificate that acked
	all()
	if r := <-connected; r.err != nil || r.code != 0 {
		t.Errorf("when there are descriptors again: code %d, %v", r.code, r.err)
	}
	next := w.open(t, "in", "in/candidate", in.next)
	if accepted, reply := next.ask(protocol.Ack, "{}"); !accepted {
		t.Errorf("ack: %s", reply)
	}
	w.becomes(http.StatusOK)
}

// TestBesideBadClients measures what others notice of clients that never finish
// TLS and of one that never reads. It fails if one of the others is not served,
// or the one that never reads is sent more and more; the times are for people.
func TestBesideBadClients(t *testing.T) {
	w := start(t, func(c *config.Config) { c.Limits.Burst = 1 << 20 })
	alone := w.p99(t, "alone")
	const silent = 200
	for range silent {
		conn, err := net.Dial("tcp", w.target.Broker)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Write([]byte{0x16, 3, 1}); err != nil { // a handshake that begins, and no more
			t.Fatal(err)
		}
	}
	ended := w.deaf(t)
	beside := w.p99(t, "beside")
	t.Logf("p99 of the others: %s alone, %s beside %d clients that never finish TLS and one that never reads", alone, beside, silent)
	// Megabytes of replies fit between the two before anything is dropped.
	eventuallyWithin(t, 10*patience, "the one that never reads is given no more, or was ended", func() bool {
		select {
		case <-ended:
			return true
		default:
			return w.app.Dropped() > 0
		}
	})
	t.Logf("%d messages to it were dropped", w.app.Dropped())
}

// deaf connects a device that has large replies sent to it and reads none. The
// channel is closed when the broker has ended its connection.
func (w *world) deaf(t *testing.T) <-chan struct{} {
	t.Helper()
	d := w.actor(t, "deaf")
	over := w.open(t, "deaf", "deaf", d.old)
	d.get(t, over)
	raw := over.conn.(*tls.Conn).NetConn().(*net.TCPConn)
	if err := raw.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		defer close(ended)
		for id := uint16(1); ; id = id%60_000 + 1 {
			request := message(t, 1, id, protocol.DefaultTopics().Request("deaf", protocol.Get), []byte(d.csr))
			_ = over.conn.SetWriteDeadline(time.Now().Add(2 * patience))
			if _, err := over.conn.Write(request); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = raw.Close()
		asking.Wait()
	})
	return ended
}

// p99 has a hundred devices ask one after the other.
func (w *world) p99(t *testing.T, prefix string) time.Duration {
	t.Helper()
	var took []time.Duration
	for i := range 100 {
		d := w.actor(t, fmt.Sprintf("%s-%02d", prefix, i))
		over := w.open(t, d.name, d.name, d.old)
		began := time.Now()
		d.get(t, over)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}
