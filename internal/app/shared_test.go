package app_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	iottypes "github.com/aws/aws-sdk-go-v2/service/iot/types"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/loopback"
)

const (
	sharedKey    = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	sharedThings = 8
	sharedKills  = 4
)

// Two instances share one store through a table. The one that leads is killed
// again and again while things ask for certificates, and started again to stand
// by, and once it is only paused: each key gets one certificate, whoever answers,
// and AWS is asked once for it.
func TestInstancesAreKilledInTurn(t *testing.T) {
	t.Setenv("MOTO_RECORDER_FILEPATH", filepath.Join(t.TempDir(), "recording"))
	program := buildProgram(t)
	moto, broker := moto(t), newTLSPair(t)
	address := mosquittoFor(t, broker)
	account := prepareAWS(t, moto)
	f := speakForAll(t, broker, address)
	f.makeThings(account)
	record(t, moto, "start-recording")

	instances := []*instance{}
	for _, name := range []string{"a", "b"} {
		instances = append(instances, newInstance(t, program, name, fmt.Sprintf(`issuer: {kind: ssm, ca: %q}
  endpoint_url: %s
  broker: {way: mtls, endpoint: %q, certificate: %s, key: %s, ca: %s, rule_key: "env:RULE_KEY"}
`, account.ca, moto, address, broker.file("certvendor.pem"), broker.file("certvendor.key"), broker.file("ca.pem"))))
	}
	for _, i := range instances {
		i.start()
	}
	leader := leading(t, instances)
	standby := instances[1-slices.Index(instances, leader)]
	eventually(t, "the other one says that it stands by, and who leads", func() bool {
		err := standby.client.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "stands by, and ") && strings.Contains(err.Error(), fmt.Sprintf("/%d leads", leader.cmd.Process.Pid))
	})
	for path, want := range map[string]string{
		"/healthz": "alive: this instance stands by", "/readyz": "leads: ask that one", "/metrics": "certvendor_leads 0\n",
	} {
		if text := scrape(t, "http://"+standby.metrics+path); !strings.Contains(text, want) {
			t.Errorf("%s of who stands by: %q", path, text)
		}
	}
	if text := scrape(t, "http://"+leader.metrics+"/metrics"); !strings.Contains(text, "certvendor_leads 1\n") {
		t.Error("the one that leads does not say so in its metrics")
	}
	if _, err := standby.client.Freeze(t.Context(), control.What{Vending: true}, "a test"); err == nil || !strings.Contains(err.Error(), "stands by") {
		t.Errorf("who stands by is told to freeze: %v", err)
	}

	var rotating sync.WaitGroup
	t.Cleanup(func() { f.enough.Store(true); rotating.Wait() })
	for _, thing := range f.things {
		rotating.Go(func() { f.rotate(thing) })
	}
	for range sharedKills {
		leader := leading(t, instances)
		before := f.answered.Load()
		eventually(t, "it answers", func() bool { return f.answered.Load() >= before+sharedThings })
		leader.kill()
		leader.start()
	}
	paused := leading(t, instances)
	other := instances[1-slices.Index(instances, paused)]
	paused.pause(func() {
		eventually(t, "the other one leads", func() bool { return other.client.Ready(t.Context()) == nil })
		before := f.answered.Load()
		eventually(t, "it answers", func() bool { return f.answered.Load() >= before+sharedThings })
	})
	paused.start()
	f.enough.Store(true)
	rotating.Wait()
	if t.Failed() {
		return
	}
	leader = leading(t, instances)
	f.wantOneEach(leader, account)
	record(t, moto, "stop-recording")
	registeredOnce(t, moto, f)

	// Ended in an orderly way, it gives up its place: the lease is not waited for.
	rows, err := leader.client.VerifyAudit(t.Context())
	if err != nil || rows == 0 {
		t.Errorf("the audit of %d rows: %v", rows, err)
	}
	leader.terminate()
	other = instances[1-slices.Index(instances, leader)]
	eventually(t, "the other one leads", func() bool { return other.client.Ready(t.Context()) == nil })
	more, err := other.client.VerifyAudit(t.Context())
	if err != nil || more <= rows {
		t.Errorf("its audit has %d rows after %d: %v", more, rows, err)
	}
	other.terminate()
}

// buildProgram returns the program itself.
func buildProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "certvendor")
	if text, err := exec.Command("go", "build", "-o", program, "../../cmd/certvendor").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return program
}

// instance is a daemon in a process of its own.
type instance struct {
	t            *testing.T
	program, dir string
	metrics      string
	cmd          *exec.Cmd
	ended        chan error
	client       *control.Client
}

func newInstance(t *testing.T, program, name, more string) *instance {
	t.Helper()
	dir, err := os.MkdirTemp("", "cv") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{t: t, program: program, dir: dir}
	if i.metrics, err = loopback.Address(); err != nil {
		t.Fatal(err)
	}
	text := `backend: aws
control: {socket: s}
metrics: {listen: "` + i.metrics + `"}
policy: {mode: inherit}
rotation: {grace: 0s, settle: 1s, sweep_every: 500ms}
vending: {new_keys: 1000/1h}
aws:
  data: data-` + name + `
  journal: {table: certvendor, lease: 2s}
  region: eu-west-1
  quota_share: 1
  quotas: [RegisterCertificate=1000, UpdateCertificate=1000, DescribeCertificate=1000, ListPrincipalThings=1000]
  ` + more
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	i.client = control.Dial(filepath.Join(dir, "s"))
	t.Cleanup(func() {
		if i.ended != nil {
			i.kill()
		}
		i.client.Close()
		if t.Failed() {
			t.Logf("instance %s:\n%s", name, i.log())
		}
		_ = os.RemoveAll(dir)
	})
	return i
}

func (i *instance) start() {
	i.t.Helper()
	log, err := os.OpenFile(filepath.Join(i.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		i.t.Fatal(err)
	}
	defer log.Close()
	cmd, ended := exec.Command(i.program, "serve", "--config", filepath.Join(i.dir, "config.yaml")), make(chan error, 1)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "RULE_KEY="+sharedKey)
	if err := cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }()
	i.cmd, i.ended = cmd, ended
}

func (i *instance) kill() {
	i.t.Helper()
	if len(i.ended) > 0 {
		i.t.Errorf("the daemon has ended by itself:\n%s", i.log())
	}
	_ = i.cmd.Process.Kill()
	<-i.ended
	i.ended = nil
}

// pause stops the process while meanwhile runs, after which it finds that it does
// not lead any more, and ends.
func (i *instance) pause(meanwhile func()) {
	i.t.Helper()
	if err := i.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		i.t.Fatal(err)
	}
	meanwhile()
	if err := i.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		i.t.Fatal(err)
	}
	select {
	case err := <-i.ended:
		i.ended = nil
		if text := i.log(); err == nil || !strings.Contains(text, "lost the store") && !strings.Contains(text, "lease to lead has ended") {
			i.t.Errorf("the daemon ended with %v:\n%s", err, text)
		}
	case <-time.After(patience):
		i.t.Fatal("the daemon goes on, though another one leads")
	}
}

func (i *instance) terminate() {
	i.t.Helper()
	if err := i.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		i.t.Fatal(err)
	}
	if err := <-i.ended; err != nil {
		i.t.Errorf("the daemon ended with %v:\n%s", err, i.log())
	}
	i.ended = nil
}

func (i *instance) log() string {
	text, err := os.ReadFile(filepath.Join(i.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-6000):])
}

// leading waits until one instance is ready, and fails if both say so.
func leading(t *testing.T, all []*instance) (leader *instance) {
	t.Helper()
	eventually(t, "one instance leads", func() bool {
		ready := slices.DeleteFunc(slices.Clone(all), func(i *instance) bool { return i.client.Ready(t.Context()) != nil })
		if len(ready) > 1 {
			t.Fatal("both are ready")
		}
		if len(ready) == 1 {
			leader = ready[0]
		}
		return leader != nil
	})
	return leader
}

// sharedThing is one that rotates until it is told that it is enough.
type sharedThing struct {
	name, over string
	replies    chan map[string]string
	issued     map[string]string // the certificate by the CSR it was asked for with
}

// sharedFleet speaks for things as the topic rule does.
type sharedFleet struct {
	t        *testing.T
	client   mqtt.Client
	things   map[string]*sharedThing
	trace    atomic.Int64
	answered atomic.Int64
	enough   atomic.Bool
}

func speakForAll(t *testing.T, pair *tlsPair, address string) *sharedFleet {
	t.Helper()
	own, err := tls.LoadX509KeyPair(pair.file("rule.pem"), pair.file("rule.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(pair.ca)
	f := &sharedFleet{t: t, things: map[string]*sharedThing{}}
	for n := range sharedThings {
		name := fmt.Sprintf("mill-%d", n)
		f.things[name] = &sharedThing{name: name, replies: make(chan map[string]string, 100), issued: map[string]string{}}
	}
	f.client = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://" + address).SetClientID("rule").SetOrderMatters(false).
		SetTLSConfig(&tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots, ServerName: "localhost"}))
	if token := f.client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	t.Cleanup(func() { f.client.Disconnect(100) })
	token := f.client.Subscribe("cdf/certificates/+/+/+", 1, func(_ mqtt.Client, m mqtt.Message) {
		reply := map[string]string{}
		_ = json.Unmarshal(m.Payload(), &reply) // a rejection holds a number: its members do not matter
		parts := strings.Split(m.Topic(), "/")
		if reply["verdict"] = parts[3] + " " + parts[4]; f.things[parts[2]] != nil {
			f.things[parts[2]].replies <- reply
		}
	})
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	return f
}

// makeThings makes them at AWS, each with a certificate.
func (f *sharedFleet) makeThings(account awsAccount) {
	f.t.Helper()
	pki := newTLSPair(f.t)
	for name, thing := range f.things {
		first, _ := pki.sign(name, false)
		thing.over = string(certificate.IDOf(first.Raw))
		_, err := account.clients.IoT.CreateThing(f.t.Context(), &iot.CreateThingInput{ThingName: &name})
		if err != nil {
			f.t.Fatal(err)
		}
		made, err := account.clients.IoT.RegisterCertificateWithoutCA(f.t.Context(), &iot.RegisterCertificateWithoutCAInput{
			CertificatePem: pemText(first.Raw), Status: iottypes.CertificateStatusActive,
		})
		if err != nil {
			f.t.Fatal(err)
		}
		if _, err := account.clients.IoT.AttachPolicy(f.t.Context(), &iot.AttachPolicyInput{PolicyName: new("device"), Target: made.CertificateArn}); err != nil {
			f.t.Fatal(err)
		}
		if _, err := account.clients.IoT.AttachThingPrincipal(f.t.Context(), &iot.AttachThingPrincipalInput{ThingName: &name, Principal: made.CertificateArn}); err != nil {
			f.t.Fatal(err)
		}
	}
}

// send publishes a request as the rule does.
func (f *sharedFleet) send(thing *sharedThing, action string, body any) {
	payload, err := json.Marshal(body)
	if err != nil {
		f.t.Error(err)
		return
	}
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	members := []string{
		sharedKey, encode(string(payload)), thing.over, encode(thing.name), encode("cdf/certificates/" + thing.name + "/" + action),
		fmt.Sprintf("trace-%d", f.trace.Add(1)), fmt.Sprint(time.Now().UnixMilli()),
	}
	envelope, err := json.Marshal(map[string]any{
		"payloadB64": members[1], "certId": thing.over, "clientId": thing.name, "thing": thing.name, "action": action,
		"traceId": members[5], "ts": json.Number(members[6]), "mac": hash(sharedKey + "|" + hash(strings.Join(members, "|"))),
	})
	if err != nil {
		f.t.Error(err)
		return
	}
	if token := f.client.Publish("certvendor/in/"+thing.name+"/"+action, 1, false, envelope); !token.WaitTimeout(patience) || token.Error() != nil {
		f.t.Errorf("%s of %s: %v", action, thing.name, token.Error())
	}
}

// ask asks again and again until it is answered with yes, and answers says that
// this is the answer: one to an earlier asking may come late.
func (f *sharedFleet) ask(thing *sharedThing, action string, body any, answers func(map[string]string) bool) (answered bool) {
	for limit := time.Now().Add(2 * patience); time.Now().Before(limit); {
		f.send(thing, action, body)
		for again := time.After(time.Second); ; {
			var reply map[string]string
			select {
			case reply = <-thing.replies:
			case <-again:
			}
			if reply == nil {
				break
			}
			if reply["verdict"] == action+" accepted" && answers(reply) {
				f.answered.Add(1)
				return true
			}
		}
	}
	f.t.Errorf("%s: no answer to its %s", thing.name, action)
	return false
}

// rotate rotates a thing until it is enough, asking each time twice.
func (f *sharedFleet) rotate(thing *sharedThing) {
	for n := 0; n == 0 || !f.enough.Load(); n++ {
		_, csr := csrOf(f.t, thing.name)
		certificates := func(reply map[string]string) bool {
			id := reply["certificateId"]
			for asked, is := range thing.issued {
				if is == id && asked != csr {
					return false
				}
			}
			if known := thing.issued[csr]; known != "" && known != id {
				f.t.Errorf("%s: one key, and the certificates %.8s and %.8s", thing.name, known, id)
			}
			thing.issued[csr] = id
			return true
		}
		for range 2 {
			if !f.ask(thing, "get", map[string]string{"csr": csr}, certificates) {
				return
			}
		}
		thing.over = thing.issued[csr]
		if !f.ask(thing, "ack", map[string]string{}, func(map[string]string) bool { return true }) {
			return
		}
	}
}

// wantOneEach holds what the things were given against what the operator sees
// and what AWS has.
func (f *sharedFleet) wantOneEach(leader *instance, account awsAccount) {
	f.t.Helper()
	for _, thing := range f.things {
		issued := slices.Collect(maps.Values(thing.issued))
		eventually(f.t, thing.name+" works on its last certificate, and on no other", func() bool {
			d, err := leader.client.Device(f.t.Context(), thing.name)
			if err != nil {
				return false
			}
			for _, held := range d.Certificates {
				if (held.Standing == certificate.Active) != (string(held.ID) == thing.over) {
					return false
				}
			}
			return len(d.Certificates) == len(issued)+1
		})
		for _, id := range issued {
			is, err := account.clients.IoT.DescribeCertificate(f.t.Context(), &iot.DescribeCertificateInput{CertificateId: &id})
			if err != nil || (is.CertificateDescription.Status == iottypes.CertificateStatusActive) != (id == thing.over) {
				f.t.Errorf("%s: certificate %.8s at AWS: %v, %v", thing.name, id, is, err)
			}
		}
	}
}

func record(t *testing.T, moto, what string) {
	t.Helper()
	answer, err := http.Post(moto+"/moto-api/recorder/"+what, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
}

// registeredOnce reads what moto was asked for: for each key one certificate.
func registeredOnce(t *testing.T, moto string, f *sharedFleet) {
	t.Helper()
	answer, err := http.Get(moto + "/moto-api/recorder/download-recording")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	byKey := map[string]map[certificate.ID]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var call struct {
			URL, Body   string
			BodyEncoded bool `json:"body_encoded"`
		}
		if err := json.Unmarshal(lines.Bytes(), &call); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(call.URL, "/certificate/register") {
			continue
		}
		body := []byte(call.Body)
		if call.BodyEncoded {
			if body, err = base64.StdEncoding.DecodeString(call.Body); err != nil {
				t.Fatal(err)
			}
		}
		var asked struct {
			PEM string `json:"certificatePem"`
		}
		if err := json.Unmarshal(body, &asked); err != nil {
			t.Fatal(err)
		}
		c := parsePEM(t, asked.PEM)
		key := string(c.RawSubjectPublicKeyInfo)
		if byKey[key] == nil {
			byKey[key] = map[certificate.ID]bool{}
		}
		byKey[key][certificate.IDOf(c.Raw)] = true
	}
	issued := 0
	for _, thing := range f.things {
		issued += len(thing.issued)
	}
	if len(byKey) != issued {
		t.Errorf("%d keys were registered, and %d were answered", len(byKey), issued)
	}
	for _, all := range byKey {
		if len(all) != 1 {
			t.Errorf("%d certificates were registered for one key", len(all))
		}
	}
	t.Logf("%d certificates for %d keys of %d things, over %d kills", issued, len(byKey), len(f.things), sharedKills)
}
