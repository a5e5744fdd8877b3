package device

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/certvendor/certvendor/protocol"
)

// anchorsFile is what the vendor has sent to verify servers by. It comes beside
// Config.Roots, never in their place: a device that was told something wrong
// still finds those it was made for. formerFile is what it held before, for as long
// as no broker was verified by the new ones: nor does it lose one that came after.
const (
	anchorsFile = "anchors.pem"
	formerFile  = "anchors-former.pem"
)

// maxAnchors bounds what is kept of it, in octets.
const maxAnchors = 64 << 10

// takeAnchors makes trust anchors durable, and verifies by them from now on. What
// is no set of CA certificates is told of, and not taken: nor is it acked then.
func (a *Agent) takeAnchors(text string) error {
	if text == "" || text == a.anchors.text {
		return nil
	}
	next := anchors{text: text, former: a.anchors.former}
	var err error
	if next.roots, err = poolWith(a.cfg.Roots, text); err != nil {
		a.tell(Event{Kind: DirectoryTrouble, Err: fmt.Errorf("the trust anchors that were sent are not taken: %w", err)})
		return nil
	}
	if next.former == nil && a.anchors.text != "" {
		if err := a.writeAnchors(formerFile, a.anchors.text); err != nil {
			return err
		}
		next.former = a.anchors.roots
	}
	if err := a.writeAnchors(anchorsFile, text); err != nil {
		return err
	}
	a.anchors = next
	return nil
}

// anchors are those that were taken.
type anchors struct {
	text   string
	roots  *x509.CertPool // with Config.Roots
	former *x509.CertPool // those before, with Config.Roots; nil once a broker was verified by roots
}

// settleAnchors gives those before up: a broker was verified without them.
func (a *Agent) settleAnchors() {
	if a.anchors.former == nil {
		return
	}
	if err := os.Remove(filepath.Join(a.cfg.Directory, formerFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.tell(Event{Kind: DirectoryTrouble, Err: err})
	}
	a.anchors.former = nil
}

func (a *Agent) writeAnchors(name, text string) error {
	return writeFile(filepath.Join(a.cfg.Directory, name), []byte(text), a.store.cut)
}

// loadAnchors reads what was taken before. A file that cannot be used is told of.
func (a *Agent) loadAnchors() {
	a.anchors = anchors{}
	a.anchors.text, a.anchors.roots = a.readAnchors(anchorsFile)
	if a.anchors.roots == nil {
		a.anchors.roots = a.cfg.Roots
	}
	_, a.anchors.former = a.readAnchors(formerFile)
}

// readAnchors returns no pool where there is none.
func (a *Agent) readAnchors(name string) (string, *x509.CertPool) {
	text, err := os.ReadFile(filepath.Join(a.cfg.Directory, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	var pool *x509.CertPool
	if err == nil {
		pool, err = poolWith(a.cfg.Roots, string(text))
	}
	if err != nil {
		a.tell(Event{Kind: DirectoryTrouble, Err: fmt.Errorf("the trust anchors in %s are not used: %w", name, err)})
		return "", nil
	}
	return string(text), pool
}

// poolWith returns the roots with the CA certificates of a text.
func poolWith(roots *x509.CertPool, text string) (*x509.CertPool, error) {
	if len(text) > maxAnchors {
		return nil, fmt.Errorf("more than %d octets", maxAnchors)
	}
	pool, some := roots.Clone(), false
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if block.Type != "CERTIFICATE" || !c.IsCA {
			return nil, errors.New("something is in them that is no CA certificate")
		}
		pool.AddCert(c)
		some = true
	}
	if !some || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not certificates in PEM")
	}
	return pool, nil
}

// anchorsTaken is what an ack says of them; empty where none were sent.
func (a *Agent) anchorsTaken() string {
	if a.anchors.text == "" {
		return ""
	}
	return protocol.AnchorsSHA256(a.anchors.text)
}

// packageRoots verify where packages are downloaded from.
func (a *Agent) packageRoots() *x509.CertPool {
	if a.cfg.PackageRoots == a.cfg.Roots {
		return a.anchors.roots
	}
	return a.cfg.PackageRoots
}
