package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/internal/control"
)

// TestByHandUntilAnError: what was done before the daemon failed is told, with the
// error: a device that was undone is no less undone.
func TestByHandUntilAnError(t *testing.T) {
	dir, err := os.MkdirTemp("", "cv") // a socket's path has a limit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked > 1 {
			http.Error(w, `{"error":"the store cannot be written"}`, http.StatusInternalServerError)
			return
		}
		var names struct{ Names []string }
		_ = json.NewDecoder(r.Body).Decode(&names)
		var all []control.Outcome
		for _, name := range names.Names {
			all = append(all, control.Outcome{Device: name, Done: "rotation 1 is undone"})
		}
		_ = json.NewEncoder(w).Encode(all)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	var names strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&names, "d-%04d\n", i)
	}
	file := filepath.Join(dir, "names")
	if err := os.WriteFile(file, []byte(names.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	c := &cli{socket: filepath.Join(dir, "s"), out: &out, errs: &errs}
	cmd := c.rotationUndo()
	cmd.SetArgs([]string{"--file", file, "--yes"})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err = cmd.ExecuteContext(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the store cannot be written") {
		t.Errorf("the error: %v", err)
	}
	if text := out.String(); strings.Count(text, "rotation 1 is undone\n") != 1000 || !strings.Contains(text, "\n1000 of 1500 devices") {
		t.Errorf("told: %.200q", text)
	}
}
