package system

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/certvendor/certvendor/bench/load"
	"github.com/certvendor/certvendor/bench/mqtt"
)

// vendsPerDevice is how many certificates one device asks for. The daemon lets
// a device bring six new keys a day (vending.new_keys), and no limit of its is
// changed here: where more certificates are wanted there are more devices.
const vendsPerDevice = 6

// Certvendor is a daemon with its defaults: durable store, audit, limits. Only
// where it listens and keeps its files is configured.
type Certvendor struct {
	dir, program string
	broker       string
	ca           *CA
	process      *process
	roots        *x509.CertPool
	devices      int // how many were entered

	mu    sync.Mutex
	acked map[string]string // certificate ids that a device was given, with the device
}

// StartCertvendor makes a data directory with the given CA, and starts the
// daemon on it. What differs from the defaults is in more, as YAML.
func StartCertvendor(ctx context.Context, dir, program string, ca *CA, more ...string) (*Certvendor, error) {
	c := &Certvendor{dir: dir, program: program, ca: ca, acked: map[string]string{}, roots: x509.NewCertPool()}
	if err := c.configure(ctx, strings.Join(more, "")); err != nil {
		return nil, err
	}
	return c, c.start()
}

func (c *Certvendor) configure(ctx context.Context, more string) (err error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	if c.broker, err = freeAddress(); err != nil {
		return err
	}
	config := fmt.Sprintf("metrics: {listen: \"\"}\nstandalone:\n  broker: {listen: %q}\n  packages: {listen: \"127.0.0.1:0\"}\n", c.broker)
	if err := os.WriteFile(filepath.Join(c.dir, "config.yaml"), []byte(config+more), 0o600); err != nil {
		return err
	}
	if _, err := c.command(ctx, "ca", "init"); err != nil {
		return err
	}
	for _, file := range []string{"root.crt", "root.key", "issuing.crt", "issuing.key"} {
		text, err := os.ReadFile(filepath.Join(c.ca.Dir, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(c.dir, "data", "ca", file), text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (c *Certvendor) start() (err error) {
	if c.process, err = start(c.dir, "certvendor", c.program, "serve"); err != nil {
		return err
	}
	if err := c.process.listens("unix", filepath.Join(c.dir, "data", "control.sock")); err != nil {
		return err
	}
	if err := c.process.listens("tcp", c.broker); err != nil {
		return err
	}
	roots, err := c.command(context.Background(), "ca", "show", "--pem")
	if err != nil {
		return err
	}
	if !c.roots.AppendCertsFromPEM(roots) {
		return errors.New("certvendor ca show --pem: no certificate")
	}
	return nil
}

// command runs a verb of the program beside the daemon's configuration.
func (c *Certvendor) command(ctx context.Context, args ...string) ([]byte, error) {
	return tool(ctx, c.dir, c.program, args...)
}

// Profile has the daemon watch itself for so long, and write a profile.
func (c *Certvendor) Profile(ctx context.Context, kind, file string, lasts time.Duration) error {
	_, err := c.command(ctx, "profile", kind, "--out", file, "--lasts", lasts.String())
	return err
}

// Name implements System.
func (c *Certvendor) Name() string { return "certvendor" }

// PIDs implements System.
func (c *Certvendor) PIDs() []int { return []int{c.process.pid()} }

// Close implements System.
func (c *Certvendor) Close() error { return c.process.Close() }

// Device is a device that is registered and has a certificate that works.
type Device struct {
	Name string
	Pair tls.Certificate
}

// AddDevices makes devices with certificates of the CA, and has an operator
// import them.
func (c *Certvendor) AddDevices(ctx context.Context, n int) ([]Device, error) {
	devices := make([]Device, n)
	texts := make([]string, n)
	err := each(n, func(i int) error {
		name := fmt.Sprintf("device-%06d", c.devices+i+1)
		key, err := P256()
		if err != nil {
			return err
		}
		made, err := sign(leaf(name), c.ca.Issuer, key.Public(), c.ca.Key)
		if err != nil {
			return err
		}
		devices[i] = Device{name, tls.Certificate{Certificate: [][]byte{made.Raw}, PrivateKey: key, Leaf: made}}
		texts[i] = string(encode("CERTIFICATE", made.Raw))
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.devices += n
	var file bytes.Buffer
	lines := csv.NewWriter(&file)
	for i, d := range devices {
		_ = lines.Write([]string{d.Name, texts[i]}) // to memory
	}
	lines.Flush()
	if err := os.WriteFile(filepath.Join(c.dir, "fleet.csv"), file.Bytes(), 0o600); err != nil {
		return nil, err
	}
	_, err = c.command(ctx, "device", "import", "fleet.csv")
	return devices, err
}

// Connect opens a connection of a device, and listens for answers to its gets.
func (c *Certvendor) Connect(ctx context.Context, d Device) (*mqtt.Conn, error) {
	conn, err := mqtt.Dial(ctx, c.broker, &tls.Config{
		RootCAs: c.roots, ServerName: "localhost", Certificates: []tls.Certificate{d.Pair}, MinVersion: tls.VersionTLS13,
	}, d.Name)
	if err != nil {
		return nil, err
	}
	return conn, conn.Subscribe("cdf/certificates/" + d.Name + "/get/+")
}

// connectAtOnce is how many devices connect at a time.
const connectAtOnce = 32

// ConnectAll opens a connection for each device.
func (c *Certvendor) ConnectAll(ctx context.Context, devices []Device) ([]*mqtt.Conn, error) {
	conns := make([]*mqtt.Conn, len(devices))
	err := eachOf(connectAtOnce, len(devices), func(i int) (err error) {
		conns[i], err = c.Connect(ctx, devices[i])
		return err
	})
	if err != nil {
		closeAll(slicesOf(conns))
		return nil, err
	}
	return conns, nil
}

// slicesOf returns the connections that were made.
func slicesOf(conns []*mqtt.Conn) (made []*mqtt.Conn) {
	for _, conn := range conns {
		if conn != nil {
			made = append(made, conn)
		}
	}
	return made
}

// vend is a get of one device that is ready to be sent, and then its answer.
type vend struct {
	conn  *mqtt.Conn
	topic string
	body  []byte
	key   request
	reply []byte
}

// Prepare implements System: it enters and connects devices that have asked for
// nothing yet.
func (c *Certvendor) Prepare(workers int, lasts time.Duration) (func() (load.Result, error), func() error, error) {
	ctx := context.Background()
	n := max(2*workers, most(900, lasts))
	devices, err := c.AddDevices(ctx, n)
	if err != nil {
		return nil, nil, err
	}
	conns, err := c.ConnectAll(ctx, devices)
	if err != nil {
		return nil, nil, err
	}
	vends, err := prepareVends(devices, conns)
	if err != nil {
		return nil, nil, err
	}
	// A device has one request under way at a time: it comes back to the end of
	// the line when it was answered.
	ready := make(chan []vend, n)
	for i := range n {
		ready <- vends[i*vendsPerDevice : (i+1)*vendsPerDevice]
	}
	run := func() (load.Result, error) {
		return load.Loop(workers, lasts, func(int) error {
			select {
			case mine := <-ready:
				if err := mine[0].ask(); err != nil {
					return err
				}
				if len(mine) > 1 {
					ready <- mine[1:]
				}
				return nil
			default:
				return load.ErrNoMore
			}
		})
	}
	check := func() error {
		closeAll(conns)
		return c.check(vends)
	}
	return run, check, nil
}

func prepareVends(devices []Device, conns []*mqtt.Conn) ([]vend, error) {
	vends := make([]vend, len(devices)*vendsPerDevice)
	return vends, each(len(vends), func(i int) error {
		d := devices[i/vendsPerDevice]
		r, err := newRequest(d.Name)
		if err != nil {
			return err
		}
		body, err := json.Marshal(map[string]string{"csr": string(r.pem)})
		vends[i] = vend{conn: conns[i/vendsPerDevice], topic: "cdf/certificates/" + d.Name + "/get", body: body, key: r}
		return err
	})
}

func (v *vend) ask() error {
	topic, reply, err := v.conn.Ask(v.topic, v.body)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(topic, "/accepted") {
		return fmt.Errorf("%s: %s", topic, reply)
	}
	v.reply = bytes.Clone(reply)
	return nil
}

// check verifies each certificate that was answered, and remembers it.
func (c *Certvendor) check(vends []vend) error {
	return each(len(vends), func(i int) error {
		v := vends[i]
		if v.reply == nil {
			return nil
		}
		var body struct{ Certificate, CertificateID string }
		if err := json.Unmarshal(v.reply, &body); err != nil {
			return err
		}
		if err := c.ca.verify([]byte(body.Certificate), v.key.key.Public()); err != nil {
			return fmt.Errorf("device %s: %w", v.key.name, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.acked[body.CertificateID] = v.key.name
		return nil
	})
}

// Rotated is what a simulated fleet says of itself.
type Rotated struct {
	Rotated, Violations int
	PerSecond           float64 `json:"rotationsPerSecond"`
	Connect, Get        struct{ P50Millis, P99Millis float64 }
}

// Simulate has so many devices rotate, so many at a time, whose jobs wait for
// them, and returns an error unless all of them have.
func (c *Certvendor) Simulate(ctx context.Context, devices, atOnce int) (r Rotated, err error) {
	text, err := c.command(ctx, "simulate", "--devices", strconv.Itoa(devices), "--concurrency", strconv.Itoa(atOnce), "--jobs-first", "--json")
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("certvendor simulate: %w", err)
	}
	if r.Rotated != devices || r.Violations != 0 {
		return r, fmt.Errorf("certvendor simulate: %d of %d devices rotated, %d violations", r.Rotated, devices, r.Violations)
	}
	return r, nil
}

// Survived kills the daemon with SIGKILL, starts it again, and returns an error
// unless every certificate that a device was given is in the inventory, the
// device's and active, and the audit verifies.
func (c *Certvendor) Survived(ctx context.Context) (certificates int, err error) {
	if err := c.process.kill(); err != nil {
		return 0, err
	}
	if err := c.start(); err != nil {
		return 0, err
	}
	text, err := c.command(ctx, "certificate", "list", "--csv")
	if err != nil {
		return 0, err
	}
	there, err := standings(text)
	if err != nil {
		return 0, err
	}
	lost := 0
	for id, device := range c.acked {
		if there[id] != device+" ACTIVE" {
			lost++
		}
	}
	if lost > 0 {
		return len(c.acked), fmt.Errorf("%d of %d certificates that devices were given are not in the inventory", lost, len(c.acked))
	}
	_, err = c.command(ctx, "audit", "verify")
	return len(c.acked), err
}

// standings reads a list of certificates: whose each is, and how it stands.
func standings(text []byte) (map[string]string, error) {
	lines := csv.NewReader(bytes.NewReader(text))
	there := map[string]string{}
	for {
		fields, err := lines.Read()
		if errors.Is(err, io.EOF) {
			return there, nil
		}
		if err != nil {
			return nil, fmt.Errorf("certvendor certificate list --csv: %w", err)
		}
		there[fields[0]] = fields[1] + " " + fields[2]
	}
}
