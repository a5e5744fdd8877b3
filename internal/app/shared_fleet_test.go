package app_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	iottypes "github.com/aws/aws-sdk-go-v2/service/iot/types"
	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/certificate"
)

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
		// What was heard last may be a get that was on its way when its ack came, over
		// the old certificate: that stays until the thing is heard on its new one again.
		f.ask(thing, "ack", map[string]string{}, func(map[string]string) bool { return true })
		f.wantOne(leader, account, thing)
	}
}

func (f *sharedFleet) wantOne(leader *instance, account awsAccount, thing *sharedThing) {
	f.t.Helper()
	defer func() {
		if f.t.Failed() {
			d, err := leader.client.Device(f.t.Context(), thing.name)
			e, failed := leader.client.Explain(f.t.Context(), thing.name, "")
			f.t.Logf("%s, last on %.8s: %+v\n%+v\n%v", thing.name, thing.over, d, e, errors.Join(err, failed))
		}
	}()
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
	byKey := map[string]map[certificate.ID]bool{}
	// Calls at the same time are now and then recorded on one line.
	for calls := json.NewDecoder(answer.Body); ; {
		var call struct {
			URL, Body   string
			BodyEncoded bool `json:"body_encoded"`
		}
		if err := calls.Decode(&call); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
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
