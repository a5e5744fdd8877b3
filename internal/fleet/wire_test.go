package fleet

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// echo is a broker that sends back what it gets, and notes it.
type echo struct {
	listener net.Listener
	got      chan string
	ended    chan error
}

func newEcho(t *testing.T) (*echo, *wire) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{listener: listener, got: make(chan string, 100), ended: make(chan error, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			e.serve(conn)
		}
	}()
	w, err := newWire(t.Context(), listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.close()
		_ = listener.Close()
		<-done
	})
	return e, w
}

func (e *echo) serve(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 1<<16)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			e.ended <- err
			return
		}
		e.got <- string(buffer[:n])
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (w *wire) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// talk sends a text and returns what comes back.
func talk(t *testing.T, conn net.Conn, text string) (string, error) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", err
	}
	back := make([]byte, len(text))
	n, err := io.ReadFull(conn, back)
	return string(back[:n]), err
}

func TestWirePassesOn(t *testing.T) {
	_, w := newEcho(t)
	conn := w.dial(t)
	for _, text := range []string{"hello", string(bytes.Repeat([]byte("long"), 10_000))} {
		if back, err := talk(t, conn, text); err != nil || back != text {
			t.Errorf("%d octets came back of %d: %v", len(back), len(text), err)
		}
	}
}

func TestWireLosesARequest(t *testing.T) {
	e, w := newEcho(t)
	conn := w.dial(t)
	if _, err := talk(t, conn, "before"); err != nil {
		t.Fatal(err)
	}
	<-e.got
	happened := 0
	w.lose(&loss{of: request, then: func() { happened++ }})
	if back, err := talk(t, conn, "lost"); err == nil {
		t.Errorf("answered with %q", back)
	}
	if err := <-e.ended; err == nil || len(e.got) > 0 {
		t.Errorf("the broker got %d, and ended with %v", len(e.got), err)
	}
	if back, err := talk(t, w.dial(t), "again"); err != nil || back != "again" || happened != 1 {
		t.Errorf("%q, %v, lost %d times", back, err, happened)
	}
}

func TestWireLosesAnAnswer(t *testing.T) {
	e, w := newEcho(t)
	conn := w.dial(t)
	if _, err := talk(t, conn, "before"); err != nil {
		t.Fatal(err)
	}
	<-e.got
	w.lose(&loss{})
	if back, err := talk(t, conn, "lost"); err == nil || back != "" {
		t.Errorf("answered with %q, %v", back, err)
	}
	if got := <-e.got; got != "lost" {
		t.Errorf("the broker got %q", got)
	}
	if back, err := talk(t, w.dial(t), "again"); err != nil || back != "again" {
		t.Errorf("%q, %v", back, err)
	}
}

func TestWireAtAPowerCut(t *testing.T) {
	e, w := newEcho(t)
	conn := w.dial(t)
	if _, err := talk(t, conn, "before"); err != nil {
		t.Fatal(err)
	}
	w.cut()
	if back, err := talk(t, conn, "after"); err == nil {
		t.Errorf("answered with %q", back)
	}
	if back, err := talk(t, w.dial(t), "no power"); err == nil {
		t.Errorf("answered with %q", back)
	}
	if len(e.ended) > 0 {
		t.Error("the broker was told")
	}
	w.drop() // what goes on later must not tell it either
	if len(e.ended) > 0 {
		t.Error("the broker was told")
	}
}

func TestWireComesBackAfterAPowerCut(t *testing.T) {
	e, w := newEcho(t)
	conn := w.dial(t)
	if _, err := talk(t, conn, "before"); err != nil {
		t.Fatal(err)
	}
	w.drop()
	<-e.ended // one connection at a time here
	w.cut()
	w.restore()
	if back, err := talk(t, w.dial(t), "again"); err != nil || back != "again" {
		t.Errorf("%q, %v", back, err)
	}
}

func TestWireIsSlowAndLate(t *testing.T) {
	_, w := newEcho(t)
	conn := w.dial(t)
	w.slow(10 * slowPortion)
	started := time.Now()
	if _, err := talk(t, conn, string(make([]byte, 3*slowPortion))); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took < 300*time.Millisecond {
		t.Errorf("three portions took %s", took)
	}
	w.slow(0)
	w.delay(200 * time.Millisecond)
	started = time.Now()
	if _, err := talk(t, conn, "late"); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took < 200*time.Millisecond {
		t.Errorf("it was back after %s", took)
	}
}

func TestWireNeedsABrokerOfThisMachine(t *testing.T) {
	for _, broker := range []string{"nowhere", "192.0.2.1:8883"} { // RFC 5737: documentation only
		if w, err := newWire(t.Context(), broker); err == nil {
			w.close()
			t.Errorf("%s was taken", broker)
		}
	}
}
