package archive

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func written(t *testing.T) ([]byte, Manifest) {
	t.Helper()
	var file bytes.Buffer
	w := NewWriter(&file, time.Unix(1_700_000_000, 0))
	for name, text := range map[string]string{Store: strings.Repeat("store", 1000)} {
		if err := w.Add(name, int64(len(text)), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ca/root.crt", "packages/link.key"} {
		if err := w.Add(name, 4, strings.NewReader("text")); err != nil {
			t.Fatal(err)
		}
	}
	m := Manifest{Version: "v1", Instance: "host/1", Schema: 3, AuditRow: 7, AuditHash: "ff", Keys: true}
	if err := w.Close(m); err != nil {
		t.Fatal(err)
	}
	return file.Bytes(), m
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	file, m := written(t)
	taken := map[string]string{}
	got, err := Read(bytes.NewReader(file), func(name string, r io.Reader) error {
		text, err := io.ReadAll(r)
		taken[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Members) != 3 {
		t.Errorf("members %+v", got.Members)
	}
	got.Members = nil
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
	want := map[string]string{Store: strings.Repeat("store", 1000), "ca/root.crt": "text", "packages/link.key": "text"}
	if diff := cmp.Diff(want, taken); diff != "" {
		t.Error(diff)
	}
}

// TestChangedOctets changes one octet here and there. Those that only fill
// up, or say in a header what nobody reads, may differ; no content may.
func TestChangedOctets(t *testing.T) {
	file, _ := written(t)
	whole, err := Check(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(file); i += 5 {
		changed := bytes.Clone(file)
		changed[i] ^= 0x20
		taken := map[string]string{}
		got, err := Read(bytes.NewReader(changed), func(name string, r io.Reader) error {
			text, err := io.ReadAll(r)
			taken[name] = string(text)
			return err
		})
		if err != nil {
			continue
		}
		if !cmp.Equal(whole.Members, got.Members) || taken["ca/root.crt"] != "text" || taken[Store] != strings.Repeat("store", 1000) {
			t.Fatalf("octet %d was changed, and the content with it", i)
		}
	}
}

func TestEveryCutIsFound(t *testing.T) {
	file, _ := written(t)
	said := len(bytes.TrimRight(file, "\x00")) // zeros fill up, and say nothing
	for n := 0; n < said; n += 7 {
		if _, err := Check(bytes.NewReader(file[:n])); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut to %d of %d octets: %v", n, len(file), err)
		}
	}
}

func TestWhatFollowsIsFound(t *testing.T) {
	file, _ := written(t)
	if _, err := Check(bytes.NewReader(append(bytes.Clone(file), 'x'))); !errors.Is(err, ErrDamaged) {
		t.Errorf("with an octet more: %v", err)
	}
	if _, err := Check(bytes.NewReader(append(bytes.Clone(file), make([]byte, 9000)...))); err != nil {
		t.Errorf("filled up: %v", err)
	}
}

func TestNamesThatLeadElsewhere(t *testing.T) {
	for _, name := range []string{
		"", ".", "..", "/etc/passwd", "../certvendor.db", "ca", "ca/", "ca/..", "ca/.", "ca/../x", "ca/a/b", "audit/x",
		"ca//x", "lock", "manifest.json", ".restored/x",
	} {
		if err := NewWriter(io.Discard, time.Now()).Add(name, 0, strings.NewReader("")); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q was written: %v", name, err)
		}
		var file bytes.Buffer
		w := tar.NewWriter(&file)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600}); err != nil {
			continue
		}
		_ = w.Close()
		_, err := Read(&file, func(name string, _ io.Reader) error {
			t.Errorf("%q was handed out", name)
			return nil
		})
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%q was read: %v", name, err)
		}
	}
}

func TestLinksAreNoMembers(t *testing.T) {
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "ca/root.crt", Linkname: "/etc/passwd"}); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if _, err := Check(&file); !errors.Is(err, ErrDamaged) {
		t.Errorf("a link was read: %v", err)
	}
}
