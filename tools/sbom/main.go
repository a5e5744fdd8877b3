// Command sbom writes the software bill of materials of a Go program, in
// CycloneDX 1.6 JSON, from what the go command has left in it. The same
// program, version and time give the same octets.
//
//	sbom -version 1.2.3 -time 1700000000 FILE >FILE.cdx.json
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	version := flag.String("version", "", "the program's version")
	built := flag.Int64("time", 0, "when it was built, in seconds since 1970")
	flag.Parse()
	if flag.NArg() != 1 || *version == "" {
		fmt.Fprintln(os.Stderr, "sbom: it is `sbom -version V -time SECONDS FILE`")
		os.Exit(2)
	}
	if err := write(flag.Arg(0), *version, time.Unix(*built, 0)); err != nil {
		fmt.Fprintf(os.Stderr, "sbom: %s: %v\n", flag.Arg(0), err)
		os.Exit(1)
	}
}

func write(file, version string, built time.Time) error {
	program, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(newBill(info, subject{
		name: filepath.Base(file), version: version, built: built, digest: sha256.Sum256(program),
	}))
}
