package main

import (
	"regexp"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

var built = &debug.BuildInfo{
	GoVersion: "go1.26.8",
	Path:      "example.com/Mod/cmd/prog",
	Main:      debug.Module{Path: "example.com/Mod", Version: "(devel)"},
	Deps: []*debug.Module{
		{Path: "example.com/a", Version: "v1.0.0+incompatible", Sum: "h1:aaa="},
		{Path: "example.com/b", Version: "v2.0.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v2.0.1", Sum: "h1:bbb="}},
	},
	Settings: []debug.BuildSetting{{Key: "GOARCH", Value: "arm"}, {Key: "-ldflags", Value: "-s"}},
}

func TestBillNamesWhatIsLinked(t *testing.T) {
	b := newBill(built, subject{name: "prog", version: "1.2.3", built: time.Unix(0, 0), digest: [32]byte{1}})
	var names []string
	for _, c := range b.Components {
		names = append(names, c.PURL)
	}
	want := []string{
		"pkg:golang/std@1.26.8", "pkg:golang/example.com/a@v1.0.0%2Bincompatible", "pkg:golang/example.com/fork@v2.0.1",
	}
	if !slices.Equal(names, want) {
		t.Errorf("components are %q, not %q", names, want)
	}
	if !slices.Equal(b.Dependencies[0].DependsOn, want) {
		t.Errorf("the program depends on %q, not on all components", b.Dependencies[0].DependsOn)
	}
	c := b.Metadata.Component
	if c.PURL != "pkg:golang/example.com/mod@1.2.3#cmd/prog" {
		t.Errorf("the program is %s", c.PURL)
	}
	if want := []property{{"go:GOARCH", "arm"}}; !slices.Equal(c.Properties, want) {
		t.Errorf("properties are %v, not %v", c.Properties, want)
	}
	if b.Metadata.Timestamp != "1970-01-01T00:00:00Z" {
		t.Errorf("timestamp is %s", b.Metadata.Timestamp)
	}
}

func TestSerialIsAUUIDOfTheProgram(t *testing.T) {
	one, other := serial([32]byte{1}), serial([32]byte{2})
	if one == other {
		t.Error("two programs have one serial number")
	}
	form := regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if !form.MatchString(one) {
		t.Errorf("%s is no UUID of version 8", one)
	}
}
