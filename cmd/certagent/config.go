package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/certvendor/certvendor/device"
)

// file is the configuration file. device, broker, ca and directory are
// required. Relative paths are relative to the file.
type file struct {
	// Device is the device's name: 1 to 128 letters, digits, colons,
	// underscores and hyphens.
	Device string `yaml:"device"`
	// Broker is host:port, with or without tls:// before it.
	Broker string `yaml:"broker"`
	// CA is a PEM file with the roots that verify the broker.
	CA string `yaml:"ca"`
	// PackageCA is a PEM file with the roots that verify where packages are
	// downloaded from. Default: CA.
	PackageCA string `yaml:"package_ca"`
	// Directory holds keys and certificates; enrol makes it.
	Directory string `yaml:"directory"`
	// Topics are the vendor's. Optional.
	Topics topics `yaml:"topics"`
	// Flow is csr (default: the key is made here and stays here) or package
	// (key and certificate are downloaded together).
	Flow device.Flow `yaml:"flow"`
	// Key is file (default: every certificate has a key of its own, made here)
	// or fixed: one key for ever, that of KeyFile, which is then read and never
	// written. The vendor must allow it (csr.reuse_key: allow).
	Key string `yaml:"key"`
	// KeyFile is the PEM file with the key, where Key is fixed.
	KeyFile string `yaml:"key_file"`
	// RenewAt is the share of the certificate's lifetime after which run rotates
	// without a job, such as 0.66 (the default); 0 for never.
	RenewAt *float64 `yaml:"renew_at"`
	// RenewJitter is the share over which a fleet spreads from there: 0.1, or
	// half of what renew_at leaves if that is less.
	RenewJitter *float64 `yaml:"renew_jitter"`
	// Proof signs the ack with the new key, for vendors that cannot see which
	// certificate a request came over.
	Proof bool `yaml:"proof"`
	// NamePrevious names the certificate in use in requests, for the same
	// vendors.
	NamePrevious bool `yaml:"name_previous"`
	// TakeOver tries the new certificate under the device's own client id, for
	// brokers that allow it no other.
	TakeOver bool `yaml:"take_over"`
	// KeepAlive is MQTT's, such as 30s (the default).
	KeepAlive string `yaml:"keepalive"`
	// ALPN is for AWS IoT Core on port 443.
	ALPN bool `yaml:"alpn"`
	// AfterSwitch is a command with its arguments, without a shell, that is
	// run after every change of the certificate: afterswitch.go says how.
	AfterSwitch []string `yaml:"after_switch"`
}

// topics are topic templates, each with {thingName} as one level. get and ack
// come together; a reply's default is /accepted or /rejected below its request.
type topics struct {
	Get         string `yaml:"get"`
	GetAccepted string `yaml:"get_accepted"`
	GetRejected string `yaml:"get_rejected"`
	Ack         string `yaml:"ack"`
	AckAccepted string `yaml:"ack_accepted"`
	AckRejected string `yaml:"ack_rejected"`
}

// configError is something wrong with the configuration. Line is 0 where no
// line of the file is to blame.
type configError struct {
	Path string
	Line int
	Text string
}

func (e *configError) Error() string {
	if e.Line == 0 {
		return e.Path + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Text)
}

// maxFile bounds what is read of any file named by a person, in octets.
const maxFile = 1 << 20

// load reads the configuration at path; its error is a *configError.
func load(path string) (settings, error) {
	text, err := readFile(path)
	if err != nil {
		return settings{}, &configError{Path: path, Text: err.Error()}
	}
	f, err := decode(path, text)
	if err != nil {
		return settings{}, err
	}
	s, key, err := f.settings(filepath.Dir(path))
	if err != nil {
		return settings{}, &configError{Path: path, Line: lineOf(text, key), Text: key + ": " + err.Error()}
	}
	return s, nil
}

// decode is strict: an unknown or repeated key, a value of the wrong kind and
// a second document are errors. The parser has panicked on odd input; that is
// an error too.
func decode(path string, text []byte) (f file, err error) {
	defer func() {
		if recover() != nil {
			err = &configError{Path: path, Text: "not readable as YAML"}
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return f, located(path, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return f, &configError{Path: path, Text: "more than one document"}
	}
	return f, nil
}

// located keeps the place and the first line of what the parser says, not its
// excerpt of the file.
func located(path string, err error) error {
	e := &configError{Path: path}
	text := err.Error()
	var parsing yaml.Error
	if errors.As(err, &parsing) {
		text = parsing.GetMessage()
		if token := parsing.GetToken(); token != nil && token.Position != nil {
			e.Line = token.Position.Line
		}
	}
	e.Text, _, _ = strings.Cut(text, "\n")
	return e
}

// lineOf returns the line of a key's value, or 0 where there is none.
func lineOf(text []byte, key string) int {
	path, err := yaml.PathString("$." + key)
	if err != nil {
		return 0
	}
	node, err := path.ReadNode(bytes.NewReader(text))
	if err != nil || node == nil || node.GetToken() == nil || node.GetToken().Position == nil {
		return 0
	}
	return node.GetToken().Position.Line
}

func roots(path string) (*x509.CertPool, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	return pool, nil
}

func absolute(base, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

func readFile(path string) ([]byte, error) {
	opened, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = opened.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(opened, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s: more than %d octets", path, maxFile)
	}
	return text, nil
}
