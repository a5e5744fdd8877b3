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
// still finds those it was made for.
const anchorsFile = "anchors.pem"

// maxAnchors bounds what is kept of it, in octets.
const maxAnchors = 64 << 10

// takeAnchors makes trust anchors durable, and verifies by them from now on. What
// is no set of CA certificates is told of, and not taken: nor is it acked then.
func (a *Agent) takeAnchors(text string) error {
	if text == "" || text == a.anchors.text {
		return nil
	}
	pool, err := a.poolWith(text)
	if err != nil {
		a.tell(Event{Kind: DirectoryTrouble, Err: fmt.Errorf("the trust anchors that were sent are not taken: %w", err)})
		return nil
	}
	if err := writeFile(filepath.Join(a.cfg.Directory, anchorsFile), []byte(text), a.store.cut); err != nil {
		return err
	}
	a.anchors = anchors{text: text, roots: pool}
	return nil
}

// anchors are those that were taken.
type anchors struct {
	text  string
	roots *x509.CertPool // with Config.Roots
}

// loadAnchors reads what was taken before. A file that cannot be used is told of.
func (a *Agent) loadAnchors() {
	a.anchors = anchors{roots: a.cfg.Roots}
	text, err := os.ReadFile(filepath.Join(a.cfg.Directory, anchorsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var pool *x509.CertPool
	if err == nil {
		pool, err = a.poolWith(string(text))
	}
	if err != nil {
		a.tell(Event{Kind: DirectoryTrouble, Err: fmt.Errorf("the trust anchors in %s are not used: %w", anchorsFile, err)})
		return
	}
	a.anchors = anchors{text: string(text), roots: pool}
}

// poolWith returns Config.Roots with the CA certificates of a text.
func (a *Agent) poolWith(text string) (*x509.CertPool, error) {
	if len(text) > maxAnchors {
		return nil, fmt.Errorf("more than %d octets", maxAnchors)
	}
	pool, some := a.cfg.Roots.Clone(), false
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
