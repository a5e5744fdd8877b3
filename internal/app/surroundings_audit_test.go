package app_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/app"
)

// TestAuditThatIsNotCopied has the audit's files be ahead of the store, as where an
// older copy of that was put there by hand. The daemon answers as before, and says
// that a restore would miss what is done now.
func TestAuditThatIsNotCopied(t *testing.T) {
	w := start(t, nil)
	if w.metric(t, "certvendor_audit_copied") != 1 {
		t.Error("it is not copied from the start")
	}
	w.stop()
	ahead(t, filepath.Join(w.config.Standalone.Data, "audit", "audit-00000000000000000001.jsonl"))
	again, err := app.New(t.Context(), w.config, zerolog.New(w.log))
	if err != nil {
		t.Fatal(err)
	}
	second := &world{T: t, app: again}
	defer func() {
		if err := again.Stop(context.Background()); err == nil || !strings.Contains(err.Error(), "copy the audit") {
			t.Errorf("stopped as if all was copied: %v", err)
		}
	}()
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says so", func() bool {
		status, body := second.readyz()
		return status == http.StatusOK && strings.Contains(body, "copy the audit: audit row 9")
	})
	if second.metric(t, "certvendor_audit_copied") != 0 {
		t.Error("it is measured as if all was copied")
	}
}

// ahead puts a row behind the last one of a file of the audit that the store does
// not have.
func ahead(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(text, []byte("\n"))
	row := bytes.Replace(lines[len(lines)-2], []byte(`{"seq":`), []byte(`{"seq":9`), 1)
	if err := os.WriteFile(file, append(text, row...), 0o600); err != nil {
		t.Fatal(err)
	}
}
