package main

import (
	"encoding/json"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/internal/config"
)

// instruction is one of a Dockerfile.
type instruction struct{ name, rest string }

// readDockerfile returns its stages.
func readDockerfile(t *testing.T) [][]instruction {
	t.Helper()
	text, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var stages [][]instruction
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		if name == "FROM" {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("%s before the first FROM", name)
		}
		last := len(stages) - 1
		stages[last] = append(stages[last], instruction{name, strings.TrimSpace(rest)})
	}
	return stages
}

func only(t *testing.T, stage []instruction, name string) string {
	t.Helper()
	var all []string
	for _, i := range stage {
		if i.name == name {
			all = append(all, i.rest)
		}
	}
	if len(all) != 1 {
		t.Fatalf("%d of %s: %q", len(all), name, all)
	}
	return all[0]
}

// No engine builds the image here; this is what can be seen without one.
func TestDockerfile(t *testing.T) {
	stages := readDockerfile(t)
	if len(stages) != 2 {
		t.Fatalf("%d stages", len(stages))
	}
	build, image := stages[0], stages[1]
	module, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(module))
	if want := "golang:" + version[1] + " AS build"; build[0].rest != want || image[0].rest != "scratch" {
		t.Errorf("from %q and %q, want %q and scratch", build[0].rest, image[0].rest, want)
	}

	user := only(t, image, "USER")
	for _, id := range strings.Split(user, ":") {
		if n, err := strconv.Atoi(id); err != nil || n == 0 {
			t.Errorf("USER %s: a number, and not root's", user)
		}
	}
	var entry, command []string
	if json.Unmarshal([]byte(only(t, image, "ENTRYPOINT")), &entry) != nil || json.Unmarshal([]byte(only(t, image, "CMD")), &command) != nil {
		t.Fatal("ENTRYPOINT and CMD are lists: there is no shell")
	}
	copied := map[string]string{} // by where it goes
	for _, i := range image {
		if i.name == "COPY" {
			words := strings.Fields(i.rest)
			copied[words[len(words)-1]] = words[len(words)-2]
			if !slices.Contains(words, "--from=build") {
				t.Errorf("COPY %s: from the build alone", i.rest)
			}
		}
	}
	if binary := copied[entry[0]]; binary != "/src/bin/certvendor" {
		t.Errorf("%s is %q, not the program that was built", entry[0], binary)
	}
	if copied["/etc/ssl/certs/ca-certificates.crt"] == "" {
		t.Error("there are no roots to verify AWS by")
	}
	wantBuiltAsReadme(t, build)
	wantRuns(t, command, only(t, image, "ENV"), only(t, image, "VOLUME"))
}

// wantBuiltAsReadme checks that the program is built by the README's command,
// without cgo.
func wantBuiltAsReadme(t *testing.T, build []instruction) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("(?s)```sh build\n(.*?)\n```").FindStringSubmatch(string(readme))
	if command == nil {
		t.Fatal("the README does not say how to build")
	}
	want, _ := strings.CutPrefix(command[1], "go build ")
	for _, i := range build {
		if i.name == "RUN" && strings.HasPrefix(i.rest, "CGO_ENABLED=0 go build ") && strings.HasSuffix(i.rest, " "+want) {
			return
		}
	}
	t.Errorf("nothing is built as the README says: go build %s", want)
}

// wantRuns checks that the command is one, and that what the program writes is
// in the volume.
func wantRuns(t *testing.T, command []string, env, volume string) {
	t.Helper()
	found, _, err := (&cli{}).root().Find(command)
	if err != nil || found.Name() != "serve" {
		t.Errorf("CMD %q: %v", command, err)
	}
	directory := t.TempDir()
	file := path.Join(directory, "certvendor.yaml")
	if err := os.WriteFile(file, []byte("backend: standalone\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, strings.Fields(env))
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{c.AWS.Data, c.Standalone.Data, path.Dir(c.Control.Socket)} {
		if where != volume {
			t.Errorf("%s is not in the volume %s", where, volume)
		}
	}
}
