package app_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
)

// longTests makes the tests that take minutes do all of it.
const longTests = "LONG_TESTS"

// idleFile names, in the process of the clients, what it is to do.
const idleFile = "SURROUNDINGS_IDLE"

// idleClients is what the process of the clients is told: the two ends of
// 10,000 connections are more than one process may have open, and its memory
// would be measured with the daemon's.
type idleClients struct {
	Broker  string
	Roots   string
	Devices []fleet.Device
}

// connectionsPerGiB is how many idle connections a GiB of heap and stack is to
// hold at least. It holds many more, with the race detector too.
const connectionsPerGiB = 25_000

// TestIdleConnections holds 300 idle TLS connections, or 10,000 with
// LONG_TESTS=1, measures what each costs the daemon, and has a fleet rotate
// meanwhile. It fails if that is too much, if a connection is not there any more
// at the end, or a device has not rotated.
func TestIdleConnections(t *testing.T) {
	if os.Getenv(idleFile) != "" {
		idle(t)
		return
	}
	n := 300
	if os.Getenv(longTests) != "" {
		n = 10_000
	}
	w := start(t, nil)
	clients := idleClients{Broker: w.app.BrokerAddr(), Devices: w.addMany(t, n)}
	var err error
	if _, clients.Roots, err = w.client.CAs(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := measureMemory(t)
	began := time.Now()
	process := startIdle(t, clients)
	process.expect(fmt.Sprintf("connected %d", n))
	t.Logf("%d connected in %s", n, time.Since(began).Round(time.Millisecond))
	if got := w.app.Connections(); got != n {
		t.Errorf("%d connections", got)
	}
	after := measureMemory(t)
	each := (after.inUse - before.inUse) / n
	t.Logf("memory: %s before, %s with %d connections: %d B of heap and stack, of which %d B of stack, %d B resident for each",
		before, after, n, each, (after.stack-before.stack)/n, (after.resident-before.resident)/n)
	if each > 1<<30/connectionsPerGiB {
		t.Errorf("a connection takes %d B: a GiB does not hold %d of them", each, connectionsPerGiB)
	}

	rotated := w.rotateFleet(t, 24)
	t.Logf("%d devices rotated meanwhile in %s", len(rotated.Results), rotated.Took.Round(time.Millisecond))
	process.ask()
	process.expect(fmt.Sprintf("alive %d", n))
	if got := w.app.Connections(); got < n {
		t.Errorf("%d connections at the end", got)
	}
}

// rotateFleet has a fleet rotate, and fails the test unless all of it has.
func (w *world) rotateFleet(t *testing.T, n int) fleet.Report {
	t.Helper()
	var devices []fleet.Device
	var names []string
	for i := range n {
		d := w.add(fmt.Sprintf("rotates-%02d", i), fleet.Agent)
		devices, names = append(devices, d), append(names, d.Name)
	}
	if err := w.client.Join(t.Context(), names, func(control.Outcome) {}); err != nil {
		t.Fatal(err)
	}
	report, err := fleet.Run(t.Context(), fleet.Options{Target: w.target, Devices: devices, Directory: t.TempDir()})
	if err != nil || report.Rotated != n {
		t.Errorf("%d of %d rotated: %v", report.Rotated, n, err)
	}
	return report
}

// addMany registers devices, some at a time.
func (w *world) addMany(t *testing.T, n int) []fleet.Device {
	t.Helper()
	devices := make([]fleet.Device, n)
	var group errgroup.Group
	group.SetLimit(16)
	for i := range devices {
		group.Go(func() error {
			name := fmt.Sprintf("idle-%05d", i)
			key := newKey(t)
			added, err := w.client.AddDevice(t.Context(), control.AddRequest{Name: name, CSR: newCSR(t, key, name)})
			if err != nil {
				return err
			}
			der, err := x509.MarshalPKCS8PrivateKey(key)
			devices[i] = fleet.Device{Name: name, Certificate: []byte(added.Certificate), Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return devices
}

// memory is what this process uses, in bytes.
type memory struct{ inUse, stack, resident int }

func (m memory) String() string {
	return fmt.Sprintf("%d MiB in use and %d MiB resident", m.inUse>>20, m.resident>>20)
}

var resident = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

func measureMemory(t *testing.T) memory {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip(err)
	}
	found := resident.FindSubmatch(status)
	if found == nil {
		t.Fatal("no VmRSS")
	}
	kib, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return memory{inUse: int(stats.HeapInuse + stats.StackInuse), stack: int(stats.StackInuse), resident: kib << 10}
}

// idleProcess is the process of the clients.
type idleProcess struct {
	t    *testing.T
	says *bufio.Scanner
	in   io.WriteCloser
}

func startIdle(t *testing.T, clients idleClients) *idleProcess {
	t.Helper()
	text, err := json.Marshal(clients)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "clients.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	process := exec.CommandContext(t.Context(), self, "-test.run=^TestIdleConnections$", "-test.timeout=1h")
	process.Env = append(os.Environ(), idleFile+"="+file)
	in, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := process.Wait(); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return &idleProcess{t: t, says: bufio.NewScanner(out), in: in}
}

// expect waits for a line of the process.
func (p *idleProcess) expect(want string) {
	p.t.Helper()
	var said string
	for p.says.Scan() {
		line := p.says.Text()
		if line == want {
			return
		}
		said += line + "\n"
	}
	p.t.Fatalf("the clients never said %q:\n%s", want, said)
}

func (p *idleProcess) ask() {
	p.t.Helper()
	if _, err := p.in.Write([]byte("alive?\n")); err != nil {
		p.t.Fatal(err)
	}
}

// idle is the other process: it connects them all, says so, and when it is
// asked whether they are alive asks the broker.
func idle(t *testing.T) {
	text, err := os.ReadFile(os.Getenv(idleFile))
	if err != nil {
		t.Fatal(err)
	}
	var clients idleClients
	if err := json.Unmarshal(text, &clients); err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, target: fleet.Target{Broker: clients.Broker, Roots: x509.NewCertPool()}}
	w.target.Roots.AppendCertsFromPEM([]byte(clients.Roots))
	peers := make([]*peer, len(clients.Devices))
	var group errgroup.Group
	group.SetLimit(64)
	for i, d := range clients.Devices {
		group.Go(func() error {
			pair, err := tls.X509KeyPair(d.Certificate, d.Key)
			if err != nil {
				return err
			}
			p, code, err := w.knock(t, &pair, d.Name)
			if err != nil || code != 0 {
				return fmt.Errorf("%s: code %d, %v", d.Name, code, err)
			}
			p.name, peers[i] = d.Name, p
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("connected %d\n", len(peers))
	in := bufio.NewReader(os.Stdin)
	if asked, err := in.ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", asked, err)
	}
	var alive sync.WaitGroup
	for _, p := range peers {
		alive.Go(p.quiet)
	}
	alive.Wait()
	if !t.Failed() {
		fmt.Printf("alive %d\n", len(peers))
	}
	_, _ = in.ReadString('\n') // stay connected until the other process has counted
}
