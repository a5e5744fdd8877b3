package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// process is a daemon in a process of its own, and its world on disk.
type process struct {
	t      *testing.T
	dir    string
	broker string
	cmd    *exec.Cmd
	ended  chan error // of the process that runs
	client *control.Client
}

// newProcess writes the configuration of a daemon that is not started yet.
func newProcess(t *testing.T) *process {
	t.Helper()
	d := &process{t: t, dir: t.TempDir(), broker: lastingAddress(t)}
	text := fmt.Sprintf(`control: {socket: s}
metrics: {listen: ""}
rotation: {grace: 0s, settle: 1s, sweep_every: 200ms, per_minute: 1000000}
standalone:
  data: data
  broker: {listen: %q}
  packages: {listen: %q}
`, d.broker, lastingAddress(t))
	if err := os.WriteFile(filepath.Join(d.dir, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.ended != nil {
			d.kill()
		}
	})
	return d
}

// lastingAddress returns an address that stays free while the daemon is down:
// the system gives no port below 32768 to a connection of its own choice.
func lastingAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(12_000)))
		if listener, err := net.Listen("tcp", address); err == nil {
			_ = listener.Close()
			return address
		}
	}
	t.Fatal("no free port")
	return ""
}

// certvendor returns the program itself, as TestMain has put it on the path.
func (d *process) certvendor(args ...string) *exec.Cmd {
	return exec.Command("certvendor", append(args, "--config", filepath.Join(d.dir, "config.yaml"))...)
}

func (d *process) start() {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd, ended := d.certvendor("serve"), make(chan error, 1)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }() // kill or terminate waits for it
	d.cmd, d.ended, d.client = cmd, ended, control.Dial(filepath.Join(d.dir, "s"))
}

// ready waits until the daemon answers.
func (d *process) ready() {
	d.t.Helper()
	for limit := time.Now().Add(patience); d.client.Ready(d.t.Context()) != nil; time.Sleep(5 * time.Millisecond) {
		if len(d.ended) > 0 || time.Now().After(limit) {
			d.t.Fatalf("the daemon is not ready:\n%s", d.log())
		}
	}
}

// kill ends the daemon without a word to it.
func (d *process) kill() {
	d.t.Helper()
	if len(d.ended) > 0 {
		d.t.Errorf("the daemon has ended by itself:\n%s", d.log())
	}
	_ = d.cmd.Process.Kill()
	<-d.ended
	d.ended = nil
	d.client.Close()
}

// terminate ends the daemon as a service manager does.
func (d *process) terminate() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	if err := <-d.ended; err != nil {
		d.t.Errorf("the daemon ended with %v:\n%s", err, d.log())
	}
	d.ended = nil
	d.client.Close()
}

// log returns the end of what the daemons have written.
func (d *process) log() string {
	text, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// crashed is a device that lives through it all.
type crashed struct {
	name     string
	first    tls.Certificate
	pem, key []byte
	flow     device.Flow
	asks     bool // plays an asker, instead of an agent

	mu       sync.Mutex
	received map[certificate.ID]int // how often each certificate came
	next     tls.Certificate        // an asker's
}

func (c *crashed) note(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received[certificate.ID(id)]++
}

// crashFleet is the devices, and what they need to reach the daemon.
type crashFleet struct {
	*process
	target  fleet.Target
	devices []*crashed
	calm    chan struct{} // closed when nothing is killed any more
}

func newCrashFleet(t *testing.T) *crashFleet {
	t.Helper()
	f := &crashFleet{process: newProcess(t), calm: make(chan struct{})}
	f.start()
	f.ready()
	_, roots, err := f.client.CAs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(roots))
	f.target = fleet.Target{Broker: f.broker, Roots: pool}
	f.devices = make([]*crashed, crashDevices)
	var adding errgroup.Group
	adding.SetLimit(16)
	for i := range f.devices {
		adding.Go(func() (err error) {
			f.devices[i], err = f.add(i)
			return err
		})
	}
	if err := adding.Wait(); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *crashFleet) add(i int) (*crashed, error) {
	c := &crashed{name: fmt.Sprintf("dev-%02d", i), flow: device.ByCSR, asks: i < crashAskers, received: map[certificate.ID]int{}}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := control.NewRequest(key.signer, registry.DeviceID(c.name))
	if err != nil {
		return nil, err
	}
	added, err := f.client.AddDevice(f.t.Context(), control.AddRequest{Name: c.name, CSR: csr})
	if err != nil {
		return nil, err
	}
	c.pem, c.key = []byte(added.Certificate), key.pem
	if i >= crashDevices-crashByPack {
		c.flow = device.ByPackage
		if _, err = f.client.CreatePackage(f.t.Context(), c.name); err != nil {
			return nil, err
		}
	}
	c.first, err = tls.X509KeyPair(c.pem, c.key)
	return c, err
}

// join puts devices into the rotation group.
func (f *crashFleet) join(devices []*crashed) {
	f.t.Helper()
	var names []string
	for _, c := range devices {
		names = append(names, c.name)
	}
	err := f.client.Join(f.t.Context(), names, func(o control.Outcome) {
		if o.Error != "" {
			f.t.Errorf("join: %s", o.Error)
		}
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// agent returns the device's agent as a start of the device would.
func (f *crashFleet) agent(c *crashed) (*device.Agent, error) {
	directory := filepath.Join(f.dir, "devices", c.name)
	if err := device.Provision(directory, c.pem, c.key); err != nil && !errors.Is(err, device.ErrProvisioned) {
		return nil, err
	}
	return device.New(device.Config{
		Device: c.name, Broker: f.broker, Roots: f.target.Roots, Directory: directory, Flow: c.flow,
		Retry: device.Retry{Base: 10 * time.Millisecond, Max: 500 * time.Millisecond, Reply: 3 * time.Second},
		Event: func(e device.Event) {
			if e.Kind == device.CertificateStored {
				c.note(e.CertificateID)
			}
		},
	})
}

// live lets a device do what it has to until it has rotated.
func (f *crashFleet) live(ctx context.Context, c *crashed) error {
	if c.asks {
		return f.askOn(ctx, c)
	}
	agent, err := f.agent(c)
	if err != nil {
		return err
	}
	if err := agent.RunOnce(ctx); err != nil {
		return fmt.Errorf("device %s: %w", c.name, err)
	}
	return nil
}

// askOn repeats one request as long as daemons are killed, and notes every
// certificate that it is given. Then it acks over the last.
func (f *crashFleet) askOn(ctx context.Context, c *crashed) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	csr, err := control.NewRequest(key.signer, registry.DeviceID(c.name))
	if err != nil {
		return err
	}
	request, err := json.Marshal(map[string]string{"csr": csr})
	if err != nil {
		return err
	}
	for calm := false; !calm || len(c.received) == 0; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("device %s: %w", c.name, ctx.Err())
		case <-f.calm:
			calm = true
		case <-time.After(50 * time.Millisecond):
		}
		var vended protocol.GetAccepted
		reply, err := f.ask(ctx, c.name, c.first, protocol.Get, request)
		if err != nil {
			continue // nobody is there, or no more
		}
		if err := protocol.Decode(reply, &vended); err != nil {
			return err
		}
		block, _ := pem.Decode([]byte(vended.Certificate))
		if block == nil {
			return fmt.Errorf("device %s: no certificate in %s", c.name, reply)
		}
		c.next = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key.signer}
		c.note(string(certificate.IDOf(block.Bytes)))
	}
	for ctx.Err() == nil {
		if _, err := f.ask(ctx, c.name, c.next, protocol.Ack, []byte("{}")); err == nil {
			return nil
		}
	}
	return fmt.Errorf("device %s: its ack: %w", c.name, ctx.Err())
}

// ask sends one request over a connection of its own, and returns what it was
// granted.
func (f *crashFleet) ask(ctx context.Context, name string, pair tls.Certificate, action protocol.Action, request []byte) ([]byte, error) {
	topics, replies := protocol.DefaultTopics(), make(chan mqtt.Message, 8)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://broker").SetClientID(name + "/asks").
		SetProtocolVersion(4).SetAutoReconnect(false).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			dialer := tls.Dialer{Config: &tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: f.target.Roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{pair},
				CurvePreferences: []tls.CurveID{tls.CurveP256}, // the cheapest, for there are many
			}}
			return dialer.DialContext(ctx, "tcp", f.broker)
		}))
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		return nil, errors.Join(errors.New("not connected"), token.Error())
	}
	defer client.Disconnect(0)
	hear := func(_ mqtt.Client, m mqtt.Message) { replies <- m }
	if token := client.Subscribe(topics.Request(name, action)+"/+", 1, hear); !token.WaitTimeout(3*time.Second) || token.Error() != nil {
		return nil, errors.Join(errors.New("not subscribed"), token.Error())
	}
	if token := client.Publish(topics.Request(name, action), 1, false, request); !token.WaitTimeout(3*time.Second) || token.Error() != nil {
		return nil, errors.Join(errors.New("not acknowledged"), token.Error())
	}
	select {
	case m := <-replies:
		if m.Topic() != topics.Accepted(name, action) {
			return nil, fmt.Errorf("refused: %s", m.Payload())
		}
		return m.Payload(), nil
	case <-time.After(3 * time.Second):
		return nil, errors.New("no reply")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
