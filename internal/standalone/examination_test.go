package standalone

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/store/storetest"
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
		Crash:   func() backendtest.World { return examined(t, clock, storetest.Killed(t, data, storeFile)) },
		Fetch: func(url string) (int, []byte) {
			answer := httptest.NewRecorder()
			w.packages.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, url, nil))
			return answer.Code, answer.Body.Bytes()
		},
	}
}
