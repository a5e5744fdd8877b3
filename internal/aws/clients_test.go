package aws

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whoever has no credentials is told where they come from, in the error alone: the
// SDK's own lines, which are no JSON and bear no zone, are not among those of the log.
func TestWithoutCredentialsAnErrorSaysSo(t *testing.T) {
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer refuses.Close()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
		"AWS_EC2_METADATA_SERVICE_ENDPOINT": refuses.URL,
	} {
		t.Setenv(name, value)
	}
	quotas, err := NewQuotas(1, everything(1e6), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "stderr")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	usual := os.Stderr
	os.Stderr = file
	defer func() { os.Stderr = usual }()
	made, err := Dial(t.Context(), Account{Region: "eu-west-1", Endpoint: refuses.URL, Quotas: quotas})
	if err != nil {
		t.Fatal(err)
	}
	const want = "credentials come from the environment, aws.profile, aws.role, or the role of the machine"
	if _, err = made.Caller(t.Context()); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("failed with %v, want ...%s", err, want)
	}
	if said, err := os.ReadFile(path); err != nil || len(said) > 0 {
		t.Errorf("on the standard error: %q, %v", said, err)
	}
}
