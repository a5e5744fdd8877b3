// Package device is the device's half of a rotation: it follows rotation
// jobs, asks for a certificate, keeps key and certificate on disk, and gives
// the certificate in use up only after the new one has really connected.
//
// At every moment, also after a power cut, the directory holds a pair of key
// and certificate that the broker takes. Read this file, then rotation.go
// (the steps in their order), switchover.go, then store.go (what is on disk
// when), topics.go (on which topics to ask) and renew.go (rotating without
// being asked).
package device

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"regexp"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// The errors whose kind a caller may test.
var (
	// ErrBusy is returned while another call of Run, RunOnce or Rotate is at
	// work on the same Agent.
	ErrBusy = errors.New("a rotation is already being followed")
	// ErrNoAnswer is returned when nobody answered, however often it was asked.
	ErrNoAnswer = errors.New("no answer")
	// ErrConnectionLost is returned when the broker closed the connection.
	ErrConnectionLost = errors.New("connection lost")
	// ErrCandidate is returned when the broker did not take the new
	// certificate, however often it was tried.
	ErrCandidate = errors.New("the new certificate does not connect")
)

// Flow is the way by which a device comes to its new certificate.
type Flow string

// The two flows.
const (
	ByCSR     Flow = "csr"     // the key is made on the device and never leaves it
	ByPackage Flow = "package" // key and certificate are downloaded together
)

// Config says who the device is and how it behaves. Device, Broker, Roots and
// Directory are required; every other zero value means the default named at
// its field.
type Config struct {
	// Device is the device's name: its client id and the level of its topics.
	Device string
	// Broker is host:port, or tls://host:port (ssl, mqtts likewise).
	Broker string
	// Roots verify the broker, and package links where PackageRoots is nil.
	Roots        *x509.CertPool
	PackageRoots *x509.CertPool
	// Directory holds the keys and certificates; Provision makes it. Only one
	// agent is at work in it at a time, which a lock sees to where the system
	// has flock.
	Directory string
	// Topics are the protocol's; protocol.DefaultTopics. Usable topics of a
	// job document take their place for that job. A rotation that does not come
	// to its end tries these, those of its job and those of the job that is
	// next by then in turn.
	Topics protocol.Topics
	// Flow is ByCSR unless set.
	Flow Flow
	// Keys holds the private keys elsewhere, for example in a secure element;
	// nil keeps them as files. Keys of packages are always files.
	Keys Keys
	// FixedKey is the one key of a device that cannot make others, for example
	// in a secure element with a single slot: every certificate is asked for
	// with it. The vendor must allow that (csr.reuse_key: allow). It excludes
	// Keys and ByPackage. A pair whose key is a file stays in use until the
	// next rotation.
	FixedKey crypto.Signer
	// NewKey makes the keys that are kept as files; P-256.
	NewKey func() (crypto.Signer, error)
	// Proof adds a signature by the new key to the ack, for vendors that cannot
	// see which certificate a request came over.
	Proof bool
	// NamePrevious names the certificate in use in get and ack, for the same
	// vendors.
	NamePrevious bool
	// TakeOver connects with the new certificate under the device's own client
	// id, which makes the broker close the old connection, instead of under
	// "<device>/candidate". For brokers that allow a device one client id only.
	TakeOver bool
	// ALPN adds the protocol name x-amzn-mqtt-ca, with which AWS IoT Core
	// speaks MQTT on port 443
	// (docs.aws.amazon.com/iot/latest/developerguide/protocols.html).
	ALPN bool
	// KeepAlive is 30 seconds, and rounded to whole seconds.
	KeepAlive time.Duration
	// Retry paces whatever is tried again.
	Retry Retry
	// RenewAt is the share of the certificate's lifetime after which Run
	// rotates without a job; 0.66, negative for never. RenewJitter is the share
	// over which a fleet spreads from there; 0.1, or half of what RenewAt
	// leaves if that is less; negative for none.
	RenewAt     float64
	RenewJitter float64
	// Now is the wall clock; time.Now. It decides when to renew, and whether
	// the broker's certificate is valid. It may be wrong: see RenewalTime.
	Now func() time.Time
	// Monotonic is the time since any one moment, by a clock that nobody sets;
	// Go's. It may stand still while the device sleeps: what has passed is
	// counted by Now as well, and whichever says more is believed.
	Monotonic func() time.Duration
	// Event is told what happens, in order and on the goroutine at work, New's
	// too: it must not block and not call the Agent. Nil for nobody.
	Event func(Event)
}

// Retry paces what is tried again: a pause before attempt n is drawn evenly
// from zero to Base doubled n times, at most Max ("full jitter").
type Retry struct {
	Base     time.Duration  // 1 s
	Max      time.Duration  // 5 min
	Reply    time.Duration  // how long one answer is waited for; 15 s
	Attempts int            // how often one step is tried before the device reconnects; 8
	Jitter   func() float64 // from [0,1); safe for concurrent use; math/rand/v2.Float64
}

// candidateSuffix is what a candidate's client id ends in.
const candidateSuffix = "/candidate"

// What AWS IoT allows as a thing name (API reference, CreateThing).
var deviceName = regexp.MustCompile(`^[a-zA-Z0-9:_-]{1,128}$`)

// Validate returns what New would refuse in the configuration itself, without
// looking at the directory; nil if nothing.
func (c Config) Validate() error {
	_, err := c.withDefaults()
	return err
}

func (c Config) withDefaults() (Config, error) {
	if c.Topics == (protocol.Topics{}) {
		c.Topics = protocol.DefaultTopics()
	}
	setDefault(&c.Flow, ByCSR)
	setDefault(&c.KeepAlive, 30*time.Second)
	setDefault(&c.Retry.Base, time.Second)
	setDefault(&c.Retry.Max, 5*time.Minute)
	setDefault(&c.Retry.Reply, 15*time.Second)
	setDefault(&c.Retry.Attempts, 8)
	c.setRenewalDefaults()
	if c.Retry.Jitter == nil {
		c.Retry.Jitter = rand.Float64
	}
	if c.PackageRoots == nil {
		c.PackageRoots = c.Roots
	}
	if c.NewKey == nil {
		c.NewKey = NewP256
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Monotonic == nil {
		start := time.Now()
		c.Monotonic = func() time.Duration { return time.Since(start) }
	}
	if c.Event == nil {
		c.Event = func(Event) {}
	}
	return c, c.check()
}

func (c *Config) setRenewalDefaults() {
	setDefault(&c.RenewAt, 0.66)
	setDefault(&c.RenewJitter, min(0.1, (1-c.RenewAt)/2))
}

func (c Config) check() error {
	switch {
	case !deviceName.MatchString(c.Device):
		return fmt.Errorf("device name %.40q: must be 1 to 128 letters, digits, colons, underscores and hyphens", c.Device)
	case c.Roots == nil:
		return errors.New("no roots to verify the broker with")
	case c.Directory == "":
		return errors.New("no directory for keys and certificates")
	case c.Flow != ByCSR && c.Flow != ByPackage:
		return fmt.Errorf("unknown flow %q", c.Flow)
	case c.FixedKey != nil && (c.Keys != nil || c.Flow == ByPackage):
		return errors.New("a fixed key excludes other keys and packages")
	case !(c.RenewAt < 1 && c.RenewAt+c.RenewJitter < 1): // also where one is no number
		return fmt.Errorf("renewal at %g with a jitter of %g: must be shares of the lifetime, together below 1", c.RenewAt, c.RenewJitter)
	case c.KeepAlive < time.Second || c.KeepAlive > 20*time.Minute:
		return fmt.Errorf("keep-alive %s: must be from 1 s to 20 min", c.KeepAlive)
	case c.Retry.Base < 0 || c.Retry.Max < c.Retry.Base || c.Retry.Reply < 0 || c.Retry.Attempts < 1:
		return errors.New("retry: durations and attempts must be positive, and the maximum not below the base")
	}
	if err := c.Topics.Validate(); err != nil {
		return err
	}
	_, err := brokerAddress(c.Broker)
	return err
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// brokerAddress returns host:port of a broker given with or without a scheme.
func brokerAddress(broker string) (string, error) {
	address := broker
	if u, err := url.Parse(broker); err == nil && u.Host != "" {
		switch u.Scheme {
		case "tls", "ssl", "mqtts":
			address = u.Host
		default:
			return "", fmt.Errorf("broker %q: the scheme must be tls", broker)
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return "", fmt.Errorf("broker %q: must be host:port", broker)
	}
	return address, nil
}
