// Package archive is the file that a backup is: a tar of the members of a data
// directory, with a manifest behind them that holds the SHA-256 of each.
//
// A manifest shows that a file is whole and was not damaged. It is no
// signature: whoever can write the file can write another manifest. Keep the
// SHA-256 of the file itself somewhere else.
//
// Read this file for what is in it, then writer.go and reader.go.
package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// The names of members: the store's copy, and what stands below directories.
const (
	Store       = "certvendor.db"
	CADir       = "ca"
	PackagesDir = "packages"

	manifestName = "manifest.json"
	maxManifest  = 64 << 20
)

// ErrDamaged says that a file is not a whole backup as it was written.
var ErrDamaged = errors.New("the backup is damaged")

// Manifest says what a backup is of, and what is in it.
type Manifest struct {
	Version   string         `json:"version"`           // of the program that made it
	Backend   string         `json:"backend,omitempty"` // of its world; empty: standalone
	Instance  string         `json:"instance"`          // which made it
	At        time.Time      `json:"at"`
	Schema    int            `json:"schema"`           // of the store
	AuditRow  int64          `json:"auditRow"`         // the last one in the store
	AuditHash string         `json:"auditHash"`        // of that row, hex; empty without rows
	Audited   time.Time      `json:"audited,omitzero"` // when that row was written
	Log       string         `json:"log,omitempty"`    // of a store that instances share: its name,
	Entry     int64          `json:"entry,omitempty"`  // and the last entry that the copy has
	CA        certificate.ID `json:"caCertificateId"`  // the issuing CA's certificate
	Keys      bool           `json:"keys"`             // CA keys, packages and the link key are in it
	Members   []Member       `json:"members,omitempty"`
}

// Member is a file of a backup.
type Member struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// checkName refuses what is not a file directly in one of the directories, or
// the store: nothing in a backup can be written anywhere else.
func checkName(name string) error {
	dir, file, below := strings.Cut(name, "/")
	switch {
	case name == Store:
		return nil
	case below && slices.Contains([]string{CADir, PackagesDir}, dir) && fs.ValidPath(name) && file != "." && !strings.Contains(file, "/"):
		return nil
	}
	return fmt.Errorf("%w: %.100q is no member of a backup", ErrDamaged, name)
}
