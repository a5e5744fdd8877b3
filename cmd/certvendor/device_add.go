package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/registry"
)

// maxCertificate bounds a file with a certificate, in octets.
const maxCertificate = 64 << 10

// addFlags are what `device add` is told besides the name.
type addFlags struct {
	out, certificate string
	attributes       []string
	birth, another   bool
}

func (c *cli) deviceAdd() *cobra.Command {
	var f addFlags
	cmd := &cobra.Command{
		Use:   "add NAME --out DIR | NAME --certificate FILE",
		Short: "Enter a device with its first certificate, or with one made elsewhere",
		Long: `Enter a device.

With --out, a key is made here and the daemon issues a certificate for it:
DIR/NAME.crt and DIR/NAME.key, neither of which is ever overwritten, and
DIR/ca.crt, which verifies the broker and package links. With backend aws there is
no ca.crt: devices verify AWS by Amazon's roots.

With --certificate, the device keeps the certificate in FILE, made elsewhere. The
CA that issued it must be among standalone.client_ca; with backend aws, AWS IoT
must let in what it signs.`,
		Args: cobra.ExactArgs(1),
		RunE: c.ask(func(ctx context.Context, daemon *control.Client, args []string) error {
			if (f.out == "") == (f.certificate == "") {
				return fmt.Errorf("device %s: give either --out, for a new certificate, or --certificate, for one made elsewhere", args[0])
			}
			attributes, err := parseAttributes(f.attributes)
			if err != nil {
				return err
			}
			if f.certificate != "" {
				return c.adopt(ctx, daemon, args[0], f, attributes)
			}
			return c.add(ctx, daemon, args[0], f, attributes)
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&f.out, "out", "", "the directory to write key and certificate to")
	flags.StringVar(&f.certificate, "certificate", "", "a PEM file with the device's certificate, made elsewhere")
	flags.StringArrayVar(&f.attributes, "attribute", nil, "an attribute of the device, name=value; repeatable")
	flags.BoolVar(&f.birth, "birth", false, "a birth certificate, for recovery: it is never retired")
	flags.BoolVar(&f.another, "another", false, "also if the device has a certificate that works")
	return cmd
}

// addedFiles is what --json prints.
type addedFiles struct {
	Device        string         `json:"device"`
	CertificateID certificate.ID `json:"certificateId"`
	NotAfter      time.Time      `json:"notAfter"`
	Certificate   string         `json:"certificate"`
	Key           string         `json:"key"`
	CA            string         `json:"ca,omitempty"`
}

func (c *cli) add(ctx context.Context, daemon *control.Client, name string, f addFlags, attributes map[string]string) error {
	files, err := newFiles(f.out, name)
	if err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	csr, err := control.NewRequest(key.signer, registry.DeviceID(name))
	if err != nil {
		return err
	}
	// The key is on disk before anything is issued for it, and gone again if
	// nothing was.
	if err := files.writeKey(key.pem); err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	added, err := daemon.AddDevice(ctx, control.AddRequest{
		Name: name, CSR: csr, Attributes: attributes, Birth: f.birth, Another: f.another,
	})
	if err != nil {
		return errors.Join(err, os.Remove(files.key))
	}
	if added.Roots == "" {
		files.ca = ""
	}
	if err := files.write(added); err != nil {
		return fmt.Errorf("device %s: certificate %s was issued, and could not be written: %w", name, short(added.CertificateID), err)
	}
	written := strings.TrimRight(strings.Join([]string{files.certificate, files.key, files.ca}, "\n  "), "\n ")
	return c.say(addedFiles{name, added.CertificateID, added.NotAfter, files.certificate, files.key, files.ca},
		"device %s: certificate %s, valid until %s\n  %s", name, short(added.CertificateID), when(added.NotAfter), written)
}

func (c *cli) adopt(ctx context.Context, daemon *control.Client, name string, f addFlags, attributes map[string]string) error {
	if _, err := registry.ParseDeviceID(name); err != nil {
		return err
	}
	text, err := readBounded(f.certificate, maxCertificate)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	adopted, err := daemon.AdoptDevice(ctx, control.AdoptRequest{
		Name: name, Certificate: string(text), Attributes: attributes, Birth: f.birth,
	})
	if err != nil {
		return fromFile(f.certificate, err)
	}
	if adopted.Warning != "" {
		fmt.Fprintf(c.errs, "certvendor: device %s: warning: %s\n", name, adopted.Warning)
	}
	return c.say(adopted, "device %s: keeps certificate %s, valid until %s", name, short(adopted.CertificateID), when(adopted.NotAfter))
}

// fromFile names the file that the daemon found unfit.
func fromFile(path string, err error) error {
	var refused *control.Error
	if path != "" && errors.As(err, &refused) && refused.Status == http.StatusBadRequest {
		return fmt.Errorf("%s: %w", path, err)
	}
	return err
}

// keyPair is a key that was just made.
type keyPair struct {
	signer *ecdsa.PrivateKey
	pem    []byte
}

func newKey() (keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return keyPair{}, fmt.Errorf("encode a key: %w", err)
	}
	return keyPair{key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}, nil
}

// deviceFiles are where a device's first certificate is written; ca is empty
// where the world's broker is not verified by CAs of ours.
type deviceFiles struct{ certificate, key, ca string }

// newFiles makes the directory, and refuses a device whose files are there,
// before anything is issued.
func newFiles(dir, name string) (deviceFiles, error) {
	if _, err := registry.ParseDeviceID(name); err != nil {
		return deviceFiles{}, err
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return deviceFiles{}, fmt.Errorf("device %s: --out %s is a file: name a directory", name, dir)
	}
	files := deviceFiles{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"), filepath.Join(dir, "ca.crt")}
	for _, path := range []string{files.certificate, files.key} {
		switch _, err := os.Lstat(path); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return files, fmt.Errorf("device %s: --out: %w", name, err)
		default:
			return files, fmt.Errorf("device %s: %s is there already and is never overwritten: name another --out", name, path)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return files, fmt.Errorf("device %s: %w", name, err)
	}
	return files, nil
}

func (f deviceFiles) writeKey(text []byte) error { return create(f.key, text, 0o600) }

func (f deviceFiles) write(added control.Added) error {
	if err := create(f.certificate, []byte(added.Certificate), 0o644); err != nil {
		return err
	}
	if f.ca == "" {
		return nil
	}
	return replace(f.ca, []byte(added.Roots))
}

// create writes a file that must not be there, durably.
func create(path string, text []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// replace writes a file whether it is there or not; whoever reads it sees all
// of the old one or all of the new one.
func replace(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".ca-*")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
