package app_test

import (
	"runtime"
	"testing"

	"github.com/certvendor/certvendor/internal/app"
)

func TestHeadroomCountsAsInUse(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	before := measureMemory(t)
	room := app.Headroom()
	if grown := measureMemory(t).inUse - before.inUse; grown < 60<<20 {
		t.Errorf("%d B more are in use", grown)
	}
	runtime.KeepAlive(room)
}

func TestNoHeadroomWhereAPersonHasSaid(t *testing.T) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Setenv("GOGC", "")
		t.Setenv("GOMEMLIMIT", "")
		t.Setenv(name, "50")
		if room := app.Headroom(); room != nil {
			t.Errorf("%s is set, and there are %d B of it", name, len(room))
		}
	}
}
