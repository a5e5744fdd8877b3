package main

import (
	"fmt"
	"net/url"
	"runtime/debug"
	"strings"
	"time"
)

// subject is the program that a bill is about.
type subject struct {
	name    string
	version string
	built   time.Time
	digest  [32]byte // SHA-256 of the file
}

// bill is a CycloneDX document, as far as it is used here:
// https://cyclonedx.org/docs/1.6/json/
type bill struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Licenses   []licence  `json:"licenses,omitempty"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type licence struct {
	License struct {
		ID string `json:"id"`
	} `json:"license"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// newBill lists the modules that are linked into a program, and the standard
// library. Who of them needs whom is not in the program, so all of them stand
// below it.
func newBill(info *debug.BuildInfo, s subject) bill {
	b := bill{
		Format: "CycloneDX", Spec: "1.6", Serial: serial(s.digest), Version: 1,
		Metadata: metadata{Timestamp: s.built.UTC().Format(time.RFC3339), Component: program(info, s)},
	}
	b.Components = append(b.Components, library("std", strings.TrimPrefix(info.GoVersion, "go"), ""))
	for _, linked := range info.Deps {
		m := linked
		if m.Replace != nil {
			m = m.Replace
		}
		b.Components = append(b.Components, library(m.Path, m.Version, m.Sum))
	}
	top := dependency{Ref: b.Metadata.Component.Ref}
	for _, c := range b.Components {
		top.DependsOn = append(top.DependsOn, c.Ref)
	}
	b.Dependencies = []dependency{top}
	return b
}

func program(info *debug.BuildInfo, s subject) component {
	c := component{
		Type: "application", Name: s.name, Version: s.version,
		Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", s.digest)}},
		PURL:   purl(info.Main.Path, s.version) + "#" + strings.TrimPrefix(strings.TrimPrefix(info.Path, info.Main.Path), "/"),
	}
	c.Ref = c.PURL
	var ours licence
	ours.License.ID = "Apache-2.0"
	c.Licenses = []licence{ours}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "GOOS", "GOARCH", "GOARM", "CGO_ENABLED", "vcs.revision", "vcs.modified":
			c.Properties = append(c.Properties, property{"go:" + setting.Key, setting.Value})
		}
	}
	return c
}

// library is a module. Its sum is that of go.sum, which is over the module's
// files and so is no hash of one file.
func library(path, version, sum string) component {
	c := component{Type: "library", Name: path, Version: version, PURL: purl(path, version)}
	c.Ref = c.PURL
	if sum != "" {
		c.Properties = []property{{"go:sum", sum}}
	}
	return c
}

// purl names a module: https://github.com/package-url/purl-spec, type golang.
func purl(path, version string) string {
	return "pkg:golang/" + strings.ToLower(path) + "@" + url.QueryEscape(version)
}

// serial is a UUID (RFC 9562, version 8) made of the program's digest.
func serial(digest [32]byte) string {
	u := digest
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
