package standalone

import (
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/protocol"
)

// TestExamination sits the examination of every world.
func TestExamination(t *testing.T) {
	backendtest.Run(t, func(t *testing.T, clock *backendtest.Clock) backendtest.World {
		return examined(t, clock, t.TempDir())
	})
}

func examined(t *testing.T, clock *backendtest.Clock, data string) backendtest.World {
	t.Helper()
	w, err := Open(t.Context(), Config{
		Data: data, Instance: "examined", Topics: protocol.DefaultTopics(), Now: clock.Now, Log: zerolog.Nop(),
		CA:       CAConfig{Now: clock.Now, Names: []string{"localhost"}},
		Broker:   BrokerConfig{Listen: "127.0.0.1:0"},
		Packages: PackageListener{Listen: "127.0.0.1:0", LinkTTL: 300 * time.Second},
		Job:      JobPace{PerMinute: 120, MaxInFlight: 500, InProgressTimeout: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if !t.Failed() {
			checkReplay(t, data)
		}
	})
	return backendtest.World{
		Backend: w.Backend(),
		Crash:   func() backendtest.World { return examined(t, clock, killed(t, data)) },
		Fetch: func(url string) (int, []byte) {
			answer := httptest.NewRecorder()
			w.packages.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, url, nil))
			return answer.Code, answer.Body.Bytes()
		},
	}
}

// killed returns a data directory as kill -9 would leave this one at this
// moment: a copy of its files, made while the world is still open, so that
// nothing is in it that only an orderly end would have written. The log of the
// store is copied before its file: a checkpoint in between does no harm then.
// What SQLite keeps in shared memory and the lock die with a process.
func killed(t *testing.T, data string) string {
	t.Helper()
	to := t.TempDir()
	copyFile(t, data, to, storeFile+"-wal")
	err := filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(data, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		case name == LockFile || strings.HasPrefix(name, storeFile+"-"):
			return nil
		}
		copyFile(t, data, to, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func copyFile(t *testing.T, from, to, name string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}
