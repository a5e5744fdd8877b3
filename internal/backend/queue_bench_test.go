package backend

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// What a turn costs that nobody else waits for.
func BenchmarkQueue(b *testing.B) {
	q := NewQueue(256, time.Minute)
	var n atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		id := registry.DeviceID("device-" + strconv.FormatInt(n.Add(1), 10))
		for pb.Next() {
			_, err := q.Do(b.Context(), id, protocol.Get, func(context.Context) vending.Outcome { return vending.Outcome{} })
			// The turn is passed on just after the outcome: it may still be taken.
			if err != nil && !errors.Is(err, vending.ErrBusy) {
				b.Error(err)
				return
			}
		}
	})
}
