package app

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/rotation"
)

// unread is a catalogue of a store that cannot be read.
type unread struct{ rotation.Catalogue }

func (unread) Counts(context.Context) (rotation.Counts, error) {
	return rotation.Counts{}, errors.New("the store cannot be read")
}

// TestMetricsOfAStoreThatCannotBeRead: what does not come from the store is shown all
// the same, and that it is not ready above all.
func TestMetricsOfAStoreThatCannotBeRead(t *testing.T) {
	m := newMetrics()
	m.registry.MustRegister(rotations{catalogue: unread{}})
	m.gauge("certvendor_ready", "1 while requests can be answered.", func() float64 { return 0 })
	answer := httptest.NewRecorder()
	m.routes(nil).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	if answer.Code != http.StatusOK || !strings.Contains(answer.Body.String(), "\ncertvendor_ready 0\n") {
		t.Errorf("%d: %.200s", answer.Code, answer.Body)
	}
}
