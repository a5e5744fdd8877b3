package store_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// FuzzEventLine holds what is written by hand against encoding/json, which the
// files that are there were written by.
func FuzzEventLine(f *testing.F) {
	f.Add(int64(1), int64(1_700_000_000_123456789), "one", "rotation.state", "d1", "00ff", "state", "vended")
	f.Add(int64(-7), int64(0), "", "", "", "", "", "")
	f.Add(int64(1<<62), int64(-1), "<o&e>", "k\"i\\nd", "d\n\x01", "ü", "\u2028", "\xff\x7f")
	f.Fuzz(func(t *testing.T, seq, at int64, instance, kind, device, id, name, text string) {
		for many := range 30 {
			e := store.Event{
				Seq: seq, At: time.Unix(0, at).UTC(), Instance: instance, Kind: kind,
				Device: registry.DeviceID(device), Certificate: certificate.ID(id), Detail: map[string]string{}, Hash: text,
			}
			for i := range many {
				e.Detail[fmt.Sprint(name, i)] = text
			}
			if many > 1 {
				e.Detail[name] = name
			}
			wantDetail, _ := json.Marshal(e.Detail)
			if got := store.Object(e.Detail); got != string(wantDetail) {
				t.Errorf("detail %s, want %s", got, wantDetail)
			}
			want, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			if got := store.Line(e); string(got) != string(want) {
				t.Errorf("%s, want %s", got, want)
			}
		}
	})
}

// Rows beyond those that are kept for the copier are read from the store.
func TestCopiesMoreThanIsKept(t *testing.T) {
	w := open(t, func(cfg *store.Config) { cfg.AuditDir = filepath.Join(t.TempDir(), "audit") })
	rows := 0
	for _, n := range []int{1, 2, store.HandedKept - 1, 1, store.HandedKept + 1, 3} {
		w.ok(w.NoteMany(w.ctx, n))
		rows += n
	}
	if held, err := w.Audit().Verify(w.ctx); err != nil || held != int64(rows) {
		t.Errorf("%d rows hold, %v; want %d", held, err, rows)
	}
}
