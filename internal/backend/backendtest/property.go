package backendtest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Property plays random lives of a small fleet on a world: whatever devices
// send, in whatever order, and whatever is lost, killed, stopped or set wrong
// meanwhile, every removal is justified, one key has one certificate, and every
// device keeps a certificate that works. At the end of its life every device
// becomes sensible, and must rotate.
//
// By itself it plays the same few lives every time. The flags of rapid ask for
// more, of lives (-rapid.checks) or of steps in each (-rapid.steps), from
// another seed every time unless -rapid.seed names one. A million steps, or as
// many as fit into the timeout, with the store in memory:
//
//	TMPDIR=/dev/shm go test ./internal/standalone -run '^TestProperty$' -v -timeout 12h -rapid.checks=3400 -rapid.steps=300
//
// A life that fails is made as short as possible; the last one printed is the
// shortest. It belongs into bricks.go then, as a scenario of its own.
func Property(t *testing.T, open Open) {
	t.Helper()
	bound(t)
	lives, steps, began := 0, 0, time.Now()
	rapid.Check(t, func(draw *rapid.T) {
		lives++
		inside(t, draw, fmt.Sprintf("life_%d", lives), func(t *testing.T) {
			f := newFleet(t, draw, open)
			draw.Repeat(f.actions())
			steps += f.steps
			f.recover()
		})
	})
	took := time.Since(began)
	t.Logf("%d steps in %d lives, %.0f steps a second", steps, lives, float64(steps)/took.Seconds())
}

// bound says how much is played where nobody asks for more.
func bound(t *testing.T) {
	t.Helper()
	asked := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { asked[f.Name] = true })
	for _, name := range []string{"rapid.checks", "rapid.steps", "rapid.seed"} {
		if _, ok := os.LookupEnv(strings.ToUpper(strings.ReplaceAll(name, ".", "_"))); ok || asked[name] {
			return
		}
	}
	for name, value := range map[string]string{"rapid.checks": "5", "rapid.steps": "120", "rapid.seed": "1"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
}

// inside plays a life as a test of its own, whose world ends with it, and hands
// its end on to rapid: the rig fails a testing.T, and rapid knows only its own.
func inside(t *testing.T, draw *rapid.T, name string, play func(*testing.T)) {
	t.Helper()
	var thrown any
	ok := t.Run(name, func(t *testing.T) {
		defer func() {
			thrown = recover() // rapid ends an attempt by a panic
			if _, bug := thrown.(runtime.Error); bug {
				t.Logf("%v\n%s", thrown, debug.Stack())
			}
		}()
		play(t)
	})
	switch {
	case thrown != nil:
		panic(thrown)
	case !ok:
		draw.Fatal("this life failed")
	}
}

// one draws one of several. Only its place is printed.
func one[T any](draw *rapid.T, label string, all ...T) T {
	return all[rapid.IntRange(0, len(all)-1).Draw(draw, label)]
}

// rarely draws true once in so many times, and false when shrunk.
func rarely(draw *rapid.T, label string, times int) bool {
	return rapid.IntRange(0, times-1).Draw(draw, label) == times-1
}
