package store_test

import (
	"slices"
	"testing"

	"github.com/certvendor/certvendor/certificate"
)

func TestRepeatedKeys(t *testing.T) {
	w := open(t)
	var want []certificate.KeyID
	for name, certificates := range map[string][]string{"once": {"1"}, "twice": {"1", "2"}, "thrice": {"1", "2", "3"}, "deleted": {"1", "2"}} {
		key := certificate.KeyIDOf([]byte(name))
		for _, which := range certificates {
			c := fake(name + which)
			c.Key = key
			w.ok(w.Certificates().Register(w.ctx, "d1", c))
			if name == "deleted" {
				w.ok(w.Certificates().Retire(w.ctx, removal("d1", c.ID, certificate.Delete)))
			}
		}
		if name != "once" {
			want = append(want, key)
		}
	}
	slices.Sort(want)
	var got []certificate.KeyID
	for after := certificate.KeyID(""); ; after = got[len(got)-1] {
		page := must[[]certificate.KeyID](t)(w.Certificates().RepeatedKeys(w.ctx, after, 2))
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
