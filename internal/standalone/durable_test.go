package standalone

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// fill makes what the tests take for a world: a file and a directory.
func fill(dir string) error {
	return errors.Join(
		os.Mkdir(filepath.Join(dir, "ca"), 0o700),
		os.WriteFile(filepath.Join(dir, "ca", "root.crt"), []byte("root"), 0o600),
		os.WriteFile(filepath.Join(dir, "store.db"), []byte("store"), 0o600),
	)
}

func mustNotMake(string) error { return errors.New("made a second time") }

// tree lists the files below a directory with their content.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || e.IsDir() {
			found[name] = ""
			return err
		}
		content, err := os.ReadFile(path)
		found[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func checkFilled(t *testing.T, data string) {
	t.Helper()
	got := tree(t, data)
	want := map[string]string{"lock": "", "ca": "", "ca/root.crt": "root", "store.db": "store"}
	if len(got) != len(want) {
		t.Errorf("the data directory holds %v", got)
	}
	for name, content := range want {
		if c, ok := got[name]; !ok || c != content {
			t.Errorf("%s: there %v, %q", name, ok, c)
		}
	}
}

// locked returns a data directory as the daemon finds it at its first start.
func locked(t *testing.T) string {
	t.Helper()
	data := t.TempDir()
	writeText(t, filepath.Join(data, LockFile), "")
	return data
}

func writeText(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestInitialiseOnce(t *testing.T) {
	data := locked(t)
	for _, make := range []func(string) error{fill, mustNotMake} {
		if err := Initialise(data, make); err != nil {
			t.Fatal(err)
		}
		checkFilled(t, data)
	}
}

func TestInitialiseLeavesAFullDirectoryAlone(t *testing.T) {
	data := locked(t)
	writeText(t, filepath.Join(data, "somebody's.txt"), "x")
	if err := Initialise(data, mustNotMake); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, data); len(got) != 2 {
		t.Errorf("the data directory holds %v", got)
	}
}

func TestInitialiseThatFailsLeavesNothing(t *testing.T) {
	data, broken := locked(t), errors.New("no entropy")
	err := Initialise(data, func(dir string) error { return errors.Join(fill(dir), broken) })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if got := tree(t, data); len(got) != 1 {
		t.Errorf("the data directory holds %v", got)
	}
	if err := Initialise(data, fill); err != nil {
		t.Fatal("the next start:", err)
	}
	checkFilled(t, data)
}

// Each case is what a power cut at one moment leaves on disk.
func TestInitialiseAfterACut(t *testing.T) {
	for name, left := range map[string]struct {
		before func(data string) error
		make   func(string) error
	}{
		"while it was made": {func(data string) error {
			return errors.Join(os.MkdirAll(filepath.Join(data, newDir, "ca"), 0o700), os.WriteFile(filepath.Join(data, newDir, "half"), nil, 0o600))
		}, fill},
		"when it was complete": {func(data string) error {
			return errors.Join(os.Mkdir(filepath.Join(data, madeDir), 0o700), fill(filepath.Join(data, madeDir)))
		}, mustNotMake},
		"with one of two in place": {func(data string) error {
			made := filepath.Join(data, madeDir)
			return errors.Join(os.Mkdir(made, 0o700), fill(made), os.Rename(filepath.Join(made, "ca"), filepath.Join(data, "ca")))
		}, mustNotMake},
		"with all in place": {func(data string) error {
			return errors.Join(fill(data), os.Mkdir(filepath.Join(data, madeDir), 0o700))
		}, mustNotMake},
	} {
		t.Run(name, func(t *testing.T) {
			data := locked(t)
			if err := left.before(data); err != nil {
				t.Fatal(err)
			}
			if err := Initialise(data, left.make); err != nil {
				t.Fatal(err)
			}
			checkFilled(t, data)
		})
	}
}

// If somebody put a CA there by hand in between, neither may win silently.
func TestInitialiseOverwritesNothing(t *testing.T) {
	data := locked(t)
	made := filepath.Join(data, madeDir)
	if err := errors.Join(os.Mkdir(made, 0o700), fill(made)); err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(data, "store.db"), "theirs")
	if err := Initialise(data, mustNotMake); err == nil {
		t.Error("no error")
	}
	if got := tree(t, data); got["store.db"] != "theirs" || got[madeDir+"/store.db"] != "store" {
		t.Errorf("the data directory holds %v", got)
	}
}

func TestWriteFileReplacesInOneStep(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, content := range []string{"one", "two"} {
		if err := writeFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if got := tree(t, dir); len(got) != 1 || got["file"] != content {
			t.Errorf("got %v", got)
		}
	}
	if err := writeFile(filepath.Join(dir, "missing", "file"), nil, 0o600); err == nil {
		t.Error("no error without the directory")
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "taken"), nil, 0o600); err == nil {
		t.Error("no error over a directory")
	}
	if got := tree(t, dir); len(got) != 2 {
		t.Errorf("parts are left: %v", got)
	}
}
