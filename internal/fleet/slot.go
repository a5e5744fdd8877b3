package fleet

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// slot is the one key slot of CDF firmware, and what it notes beside it.
type slot struct {
	path     string // of its file; empty: the device keeps it for one life only
	pair     tls.Certificate
	job      string // that the pair came for, and that is not done yet
	reported bool   // that it is done
	acked    bool   // noted before the ack goes out: there is only one
}

// slotFile is a slot on the disk.
type slotFile struct {
	Certificate string `json:"certificate"` // PEM
	Key         string `json:"key"`         // PEM
	Job         string `json:"job,omitempty"`
	Reported    bool   `json:"reported,omitempty"`
	Acked       bool   `json:"acked,omitempty"`
}

const slotName = "slot.json"

// provisionSlot writes a device's first pair, unless its disk is there already.
func (o Options) provisionSlot(d Device, first tls.Certificate) error {
	disk := o.disk(d)
	if _, err := os.Stat(filepath.Join(disk, slotName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(disk, 0o700); err != nil {
		return err
	}
	return slot{path: filepath.Join(disk, slotName), pair: first}.write()
}

func readSlot(disk string) (slot, error) {
	s := slot{path: filepath.Join(disk, slotName)}
	text, err := os.ReadFile(s.path)
	if err != nil {
		return s, err
	}
	var file slotFile
	if err := json.Unmarshal(text, &file); err != nil {
		return s, fmt.Errorf("%s on the disk: %w", slotName, err)
	}
	s.job, s.reported, s.acked = file.Job, file.Reported, file.Acked
	s.pair, err = tls.X509KeyPair([]byte(file.Certificate), []byte(file.Key))
	return s, err
}

// write replaces the slot's file with one rename. It need not be synced: the
// power that is cut is a simulated device's.
func (s slot) write() error {
	if s.path == "" {
		return nil
	}
	key, ok := s.pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("write the key slot: not an ECDSA key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return errors.New("write the key slot: the key cannot be encoded")
	}
	var chain []byte
	for _, each := range s.pair.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: each})...)
	}
	text, err := json.Marshal(slotFile{
		Certificate: string(chain), Key: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		Job: s.job, Reported: s.reported, Acked: s.acked,
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(s.path+".new", s.path)
}
