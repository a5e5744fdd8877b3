package rotation

import (
	"testing"
	"time"
)

func TestFreezeKeepsAReasonForEach(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	steps := []struct {
		do   func(*Freeze)
		want Freeze
	}{
		{func(f *Freeze) { f.StopVending("a bad batch", at) }, Freeze{true, false, "a bad batch", at}},
		{func(f *Freeze) { f.StopRetiring("circuit breaker", at) },
			Freeze{true, true, "vending: a bad batch; retiring: circuit breaker", at}},
		{func(f *Freeze) { f.StopRetiring("by hand", at) }, Freeze{true, true, "vending: a bad batch; retiring: by hand", at}},
		{func(f *Freeze) { f.Release(true, false) }, Freeze{false, true, "by hand", at}},
		{func(f *Freeze) { f.StopVending("by hand", at) }, Freeze{true, true, "by hand", at}},
		{func(f *Freeze) { f.Release(true, true) }, Freeze{At: at}},
	}
	var f Freeze
	for i, step := range steps {
		if step.do(&f); f != step.want {
			t.Errorf("step %d: %+v, want %+v", i, f, step.want)
		}
	}
}
