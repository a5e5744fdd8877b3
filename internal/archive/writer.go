package archive

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Writer writes a backup. Its methods are called by one goroutine; after an
// error the backup is worth nothing.
type Writer struct {
	tar     *tar.Writer
	now     time.Time
	members []Member
}

// NewWriter returns a writer of a backup made at a time.
func NewWriter(w io.Writer, now time.Time) *Writer {
	return &Writer{tar: tar.NewWriter(w), now: now.UTC().Truncate(time.Second)}
}

// Add writes a member of exactly so many octets.
func (w *Writer) Add(name string, size int64, content io.Reader) error {
	if err := checkName(name); err != nil {
		return err
	}
	sum := sha256.New()
	if err := w.write(name, size, io.TeeReader(content, sum)); err != nil {
		return err
	}
	w.members = append(w.members, Member{name, size, hex.EncodeToString(sum.Sum(nil))})
	return nil
}

// Close writes the manifest, with the members that were added, and the end.
func (w *Writer) Close(m Manifest) error {
	m.Members = w.members
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	if err := w.write(manifestName, int64(len(text)), bytes.NewReader(text)); err != nil {
		return err
	}
	if err := w.tar.Close(); err != nil {
		return fmt.Errorf("end backup: %w", err)
	}
	return nil
}

func (w *Writer) write(name string, size int64, content io.Reader) error {
	err := w.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: w.now, Format: tar.FormatPAX,
	})
	if err == nil {
		_, err = io.CopyN(w.tar, content, size)
	}
	if err != nil {
		return fmt.Errorf("back up %s: %w", name, err)
	}
	return nil
}
