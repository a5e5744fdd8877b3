package deps

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/certvendor/certvendor"

// What the rules call the packages of the domain: nouns and conversation,
// without I/O.
var domain = []string{"protocol", "registry", "certificate", "certificate/issuing", "jobs", "rotation", "campaign", "vending"}

// rules says what each package may import besides the standard library, as
// paths of this module or of others. A trailing /... allows a whole tree, and
// "any" every module that is not this one. A package that is not here fails
// the test: whoever adds one says here what it may know.
var rules = map[string][]string{
	"protocol":                     {"github.com/go-json-experiment/json/..."},
	"registry":                     {},
	"certificate":                  {"registry", "protocol"},
	"certificate/issuing":          {"certificate", "registry", "protocol"},
	"jobs":                         {"registry", "protocol", "github.com/go-json-experiment/json/..."},
	"rotation":                     {"certificate", "jobs", "registry"},
	"campaign":                     {"protocol", "certificate", "registry", "rotation"},
	"vending":                      {"protocol", "certificate", "registry", "rotation"},
	"device":                       {"protocol", "github.com/eclipse/paho.mqtt.golang/..."},
	"internal/crew":                {},
	"internal/backend":             append([]string{"internal/crew"}, domain...),
	"internal/backend/backendtest": append([]string{"internal/backend", "any"}, domain...),
	"internal/archive":             {"certificate"},
	"internal/store":               append([]string{"internal/durable", "any"}, domain...),
	"internal/store/storetest":     {"internal/store"},
	"internal/durable":             {},
	"internal/backup":              {"internal/archive", "internal/durable", "internal/store", "certificate"},
	"internal/standalone":          append([]string{"internal/archive", "internal/backend", "internal/backup", "internal/crew", "internal/durable", "internal/store", "any"}, domain...),
	"internal/aws":                 append([]string{"internal/archive", "internal/backend", "internal/backup", "internal/store", "any"}, domain...),
	"internal/control":             append([]string{"any"}, domain...),
	"internal/fleet":               append([]string{"device", "any"}, domain...),
	"internal/config":              append([]string{"any"}, domain...),
	"internal/app":                 append([]string{"internal/...", "any"}, domain...),
	"internal/deps":                {},
	"internal/loopback":            {"github.com/mochi-mqtt/server/v2/..."},
	"internal/approval":            {"vending", "any"},
	"internal/webhook":             {"internal/store", "any"},
	"cmd/certvendor":               append([]string{"internal/app", "internal/archive", "internal/control", "internal/config", "internal/fleet", "device", "any"}, domain...),
	"cmd/certagent":                {"device", "github.com/goccy/go-yaml/...", "github.com/coreos/go-systemd/v22/..."},
}

// noIO lists what the packages of the domain must not touch, with the reason.
var noIO = map[string]string{
	"net/http":     "how requests come in is the world's business",
	"database/sql": "where things are stored is the world's business",
	"os":           "files are the world's business",
	"os/exec":      "nothing is signed by another program",
	"net":          "connections are the world's business",
}

// forbidden lists what must not even be linked into a program.
var forbidden = map[string]map[string]string{
	"cmd/certagent": {
		"github.com/aws/":       "a device needs no AWS SDK",
		"github.com/mochi-mqtt": "a device is no broker",
		"modernc.org/":          "a device has no database",
		"database/sql":          "a device has no database",
	},
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		allowed, known := rules[name]
		if !known {
			t.Errorf("%s is in no rule: add it to rules in internal/deps", name)
			continue
		}
		for _, imported := range p.Imports {
			if !mayImport(allowed, imported) {
				t.Errorf("%s must not import %s", name, imported)
			}
			if why := noIO[imported]; why != "" && slices.Contains(domain, name) {
				t.Errorf("%s must not import %s: %s", name, imported, why)
			}
		}
		for _, dep := range p.Deps {
			for prefix, why := range forbidden[name] {
				if strings.HasPrefix(dep, prefix) {
					t.Errorf("%s must not depend on %s: %s", name, dep, why)
				}
			}
		}
	}
}

// TestRulesCanFail shows that a wrong import is found.
func TestRulesCanFail(t *testing.T) {
	for _, c := range []struct{ from, imported string }{
		{"registry", module + "/protocol"},
		{"protocol", "github.com/rs/zerolog"},
		{"vending", module + "/internal/store"},
		{"internal/control", module + "/internal/store"},
		{"internal/standalone", module + "/internal/aws"},
		{"internal/fleet", module + "/internal/app"},
		{"device", module + "/registry"},
		{"cmd/certvendor", module + "/internal/store"},
	} {
		if mayImport(rules[c.from], c.imported) {
			t.Errorf("%s may import %s: the rule finds nothing", c.from, c.imported)
		}
	}
}

func mayImport(allowed []string, imported string) bool {
	local, isLocal := strings.CutPrefix(imported, module+"/")
	if !isLocal {
		first, _, _ := strings.Cut(imported, "/")
		if !strings.Contains(first, ".") { // the standard library
			return true
		}
		local = imported
	}
	for _, rule := range allowed {
		tree, isTree := strings.CutSuffix(rule, "/...")
		switch {
		case rule == "any" && !isLocal, rule == local:
			return true
		case isTree && (local == tree || strings.HasPrefix(local, tree+"/")):
			return true
		}
	}
	return false
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps,Standard", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for decoder.More() {
		var p listed
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatal("go list names no package")
	}
	return packages
}
