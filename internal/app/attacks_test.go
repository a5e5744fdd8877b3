package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// stage is a world with a rotation to attack: the victim has a new certificate
// and has not used it yet, and listens over its old one. Mallory is a device as
// well, at work on the new certificate of a rotation that waits for its ack.
type stage struct {
	*world
	victim    *actor
	listening *peer // the victim, on the test's own goroutine
	mallory   *actor
	foreign   *foreignCA // trusted for connecting
}

func newStage(t *testing.T) *stage {
	s := &stage{foreign: newForeignCA(t)}
	s.world = start(t, func(c *config.Config) { c.Standalone.ClientCA = []string{s.foreign.file} })
	s.victim, s.mallory = s.actor(t, "victim"), s.actor(t, "mallory")
	s.listening = s.open(t, "victim", "victim", s.victim.old)
	s.victim.get(t, s.listening)
	over := s.open(t, "mallory", "mallory", s.mallory.old)
	s.mallory.get(t, over)
	s.attacker(t)
	s.inState(t, "victim", rotation.Vended)
	s.inState(t, "mallory", rotation.Proven)
	return s
}

// attacker connects as mallory.
func (s *stage) attacker(t *testing.T) *peer {
	t.Helper()
	return s.open(t, "mallory", "mallory", s.mallory.next)
}

// TestAttacks lets a device, and others, try what they must not, against a
// daemon as it runs in production. Each attempt is refused, changes nothing and
// is not heard by the victim, which rotates in the end as if nothing had been.
func TestAttacks(t *testing.T) {
	s := newStage(t)
	for _, attack := range []struct {
		name string
		try  func(*testing.T)
	}{
		{"publish on another device's topics", s.publishForAnother},
		{"publish one's own replies", s.publishReplies},
		{"subscribe to what others hear", s.subscribeToOthers},
		{"a will", s.will},
		{"another device's client id", s.foreignClientID},
		{"another device in the request", s.foreignNames},
		{"ack for another device", s.ackForAnother},
		{"a wildcard, a slash or a NUL in a name", s.strangeNames},
		{"a thousand client ids", s.manyClientIDs},
		{"a certificate of a foreign CA", s.foreignCertificates},
	} {
		t.Run(attack.name, func(t *testing.T) { s.unchanged(t, attack.try) })
		s.listening.quiet()
	}
	t.Run("a retired certificate, and an old ack", s.oldAck)
	s.listening.quiet()
	t.Run("a device that was removed", s.removedDevice)
	t.Run("an altered and a spent link", s.links)
	t.Run("an expired link", s.expiredLink)
	s.listening.quiet()
	s.victimRotates(t)
}

// requestTopics are where a device asks, and where job requests go.
func requestTopics(name string) []string {
	jobs := "$aws/things/" + name + "/jobs/"
	return []string{
		"cdf/certificates/" + name + "/get", "cdf/certificates/" + name + "/ack",
		jobs + "get", jobs + "start-next", jobs + "j/get", jobs + "j/update",
	}
}

// replyTopics are where a device is answered.
func replyTopics(name string) []string {
	jobs := "$aws/things/" + name + "/jobs/"
	return []string{
		"cdf/certificates/" + name + "/get/accepted", "cdf/certificates/" + name + "/get/rejected",
		"cdf/certificates/" + name + "/ack/accepted", "cdf/certificates/" + name + "/ack/rejected",
		jobs + "notify", jobs + "notify-next", jobs + "start-next/accepted", jobs + "j/update/accepted",
	}
}

// mayNotPublish publishes on each topic, over a connection of its own, and
// fails the test unless that ends it.
func (s *stage) mayNotPublish(t *testing.T, topics ...string) {
	t.Helper()
	for _, topic := range topics {
		for _, qos := range []byte{0, 1} {
			p := s.attacker(t)
			if err := p.write(message(t, qos, 9*uint16(qos), topic, []byte("{}"))); err != nil {
				t.Fatal(err)
			}
			p.ends()
		}
	}
}

func (s *stage) publishForAnother(t *testing.T) {
	s.mayNotPublish(t, requestTopics("victim")...)
	s.mayNotPublish(t, replyTopics("victim")...)
	s.mayNotPublish(t, "certvendor/in/victim/get", "$SYS/broker/uptime", "anything")
}

func (s *stage) publishReplies(t *testing.T) {
	s.mayNotPublish(t, replyTopics("mallory")...)
	// Where it may publish, it may not have it kept.
	p := s.attacker(t)
	retained := message(t, 1, 9, "cdf/certificates/mallory/get", []byte("{}"))
	retained[0] |= 1
	if err := p.write(retained); err != nil {
		t.Fatal(err)
	}
	p.ends()
}

func (s *stage) subscribeToOthers(t *testing.T) {
	p := s.attacker(t)
	filters := append(requestTopics("victim"), replyTopics("victim")...)
	filters = append(filters,
		"cdf/certificates/victim/get/+", "cdf/certificates/victim/#", "$aws/things/victim/jobs/#", "$aws/things/victim/#",
		"#", "+", "/#", "+/#", "+/+/+/+/+", "cdf/#", "cdf/certificates/#", "cdf/certificates/+/get/accepted",
		"cdf/certificates/+/#", "+/certificates/victim/#", "cdf/+/victim/get/+",
		"$aws/#", "$aws/things/+/jobs/#", "$SYS/#", "$share/g/#", "$share/g/cdf/certificates/victim/get/accepted",
		"$share/g/cdf/certificates/mallory/get/+", "$queue/cdf/certificates/victim/#",
	)
	for _, filter := range filters {
		code, ok := p.subscribe(filter)
		if code != refused {
			t.Errorf("granted %s: %#x", filter, code)
		}
		if !ok { // not even worth a SUBACK
			p = s.attacker(t)
		}
	}
	victim := s.listening.in(t)
	if accepted, reply := victim.ask(protocol.Get, s.victim.csr); !accepted {
		t.Errorf("the victim was refused: %s", reply)
	}
	p.quiet()
}

func (s *stage) will(t *testing.T) {
	for _, topic := range append(replyTopics("victim"), "cdf/certificates/victim/ack", "cdf/certificates/mallory/get/accepted") {
		for _, retained := range []bool{false, true} {
			p, code, err := s.knock(t, &s.mallory.next, "mallory", func(c *packets.ConnectPacket) {
				c.WillFlag, c.WillRetain, c.WillQos, c.WillTopic, c.WillMessage = true, retained, 1, topic, []byte("{}")
			})
			if err != nil || code == packets.Accepted {
				t.Errorf("a will on %s, retained %t: code %d, %v", topic, retained, code, err)
			}
			if p != nil {
				_ = p.conn.Close() // a will would be published now
			}
		}
	}
	// What was kept would be given to whoever subscribes next.
	s.open(t, "victim", "victim/again", s.victim.old).quiet()
}

func (s *stage) foreignClientID(t *testing.T) {
	for _, id := range []string{"victim", "victim/", "victim/candidate", "victim/mallory"} {
		s.refusesConnect(t, s.mallory.next, id)
		s.refusesConnect(t, s.mallory.old, id)
	}
}

func (s *stage) foreignNames(t *testing.T) {
	p := s.attacker(t)
	key := newKey(t)
	p.refusedAs(protocol.CSRRejected, protocol.Get, body(t, "csr", newCSR(t, key, "victim")))
	p.refusedAs(protocol.CSRRejected, protocol.Get, body(t, "csr", newCSR(t, key, "mallory", "victim")))
	p.refusedAs(protocol.CSRRejected, protocol.Get, body(t, "csr", newCSR(t, key, "", "victim")))
	good := newCSR(t, key, "mallory")
	p.refusedAs(protocol.Malformed, protocol.Get, body(t, "csr", good, "deviceId", "victim"))
	p.refusedAs(protocol.Malformed, protocol.Get, body(t, "csr", good, "certId", s.victim.oldID))
	p.refusedAs(protocol.Malformed, protocol.Ack, body(t, "deviceId", "victim"))
	for _, id := range []string{s.victim.oldID, idOf(s.victim.next)} {
		p.refusedAs(protocol.PreviousNotHeld, protocol.Get, body(t, "csr", good, "previousCertificateId", id))
		p.refusedAs(protocol.PreviousNotHeld, protocol.Ack, body(t, "previousCertificateId", id))
	}
	// The victim's own request, as an eavesdropper would repeat it.
	p.refusedAs(protocol.CSRRejected, protocol.Get, s.victim.csr)
}

func (s *stage) ackForAnother(t *testing.T) {
	s.mayNotPublish(t, "cdf/certificates/victim/ack")
	id := idOf(s.victim.next)
	proof, err := protocol.SignProof(newKey(t), "victim", id, "nonce")
	if err != nil {
		t.Fatal(err)
	}
	old := s.open(t, "mallory", "mallory/old", s.mallory.old)
	old.refusedAs(protocol.NotProven, protocol.Ack, body(t, "certificateId", id, "proof", proof))
	// The victim itself, over the certificate that it asked with.
	s.listening.in(t).refusedAs(protocol.NotProven, protocol.Ack, "{}")
}

func (s *stage) strangeNames(t *testing.T) {
	for _, id := range []string{"", "+", "#", "mallory+", "mallory#", "/mallory", "/", "mal/lory", "mallory\x00", "mallory\x00/x", "\x00", "mallory\xff", "$share/mallory"} {
		if _, code, err := s.knock(t, &s.mallory.next, id); err == nil && code == 0 {
			t.Errorf("client id %q was accepted", id)
		}
	}
	for _, name := range []string{"", "+", "#", "mallory+", "mallory/x", "x/mallory", "mallory\x00", "\x00", "mallory\xff", "mallory\xc0\x80"} {
		s.mayNotPublish(t, "cdf/certificates/"+name+"/get")
		p := s.attacker(t)
		if code, _ := p.subscribe("cdf/certificates/" + name + "/get/accepted"); code != refused && name != "mallory/x" {
			t.Errorf("granted the replies of %q: %#x", name, code)
		}
		if _, err := s.client.AdoptDevice(t.Context(), control.AdoptRequest{Name: name}); err == nil {
			t.Errorf("%q was entered as a device", name)
		}
	}
}

// manyClientIDs asks for a place under a thousand names of its own, each with a
// session to be kept.
func (s *stage) manyClientIDs(t *testing.T) {
	const ids, sessions = 1000, 8 // config: broker.max_connections_per_device
	others := s.connections(t)
	keep := func(c *packets.ConnectPacket) { c.CleanSession = false }
	var mu sync.Mutex
	accepted := 0
	var knocking errgroup.Group
	knocking.SetLimit(16)
	for i := range ids {
		knocking.Go(func() error {
			_, code, err := s.knock(t, &s.mallory.next, fmt.Sprintf("mallory/%d", i), keep)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("client id %d: %w", i, err)
			}
			if err != nil {
				return nil // another took its place before it was told that it has one
			}
			mu.Lock()
			defer mu.Unlock()
			if code == packets.Accepted {
				accepted++
			}
			return nil
		})
	}
	if err := knocking.Wait(); err != nil {
		t.Error(err)
	}
	if accepted < ids/2 {
		t.Errorf("only %d of them were ever accepted", accepted)
	}
	eventually(t, "a device has at most 8 connections", func() bool { return s.connections(t) <= others+sessions })
	s.open(t, "victim", "victim/meanwhile", s.victim.old).quiet()
	if kept := s.keptSessions(t, ids, keep); kept > sessions {
		t.Errorf("%d sessions of one device were kept", kept)
	}
}

// keptSessions asks under a tenth of the names whether there is a session.
func (s *stage) keptSessions(t *testing.T, ids int, keep func(*packets.ConnectPacket)) int {
	kept := 0
	for i := 0; i < ids; i += 10 {
		p, code, err := s.knock(t, &s.mallory.next, fmt.Sprintf("mallory/%d", i), keep)
		if err != nil || code != packets.Accepted {
			t.Fatalf("client id %d: code %d, %v", i, code, err)
		}
		if p.resumed {
			kept++
		}
	}
	return kept
}

var connectionsGauge = regexp.MustCompile(`(?m)^certvendor_connections (\S+)$`)

// connections reads from the metrics how many devices are connected.
func (s *stage) connections(t *testing.T) int {
	t.Helper()
	response, err := http.Get("http://" + s.app.MetricsAddr() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := connectionsGauge.FindSubmatch(text)
	if found == nil {
		t.Fatalf("no number of connections in %s", text)
	}
	n, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// victimRotates has the victim end the rotation that was attacked, and begin
// and end another.
func (s *stage) victimRotates(t *testing.T) {
	p := s.open(t, "victim", "victim/candidate", s.victim.next)
	if accepted, reply := p.ask(protocol.Ack, "{}"); !accepted {
		t.Fatalf("the victim's ack: %s", reply)
	}
	s.settle(t)
	s.inState(t, "victim", rotation.Finished)
	s.refusesConnect(t, s.victim.old, "victim/old")
	if err := s.client.Join(t.Context(), []string{"victim"}, func(control.Outcome) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	report, err := fleet.Run(ctx, fleet.Options{
		Target: s.target, Directory: t.TempDir(), Devices: []fleet.Device{s.victim.firmware(t)},
	})
	if err != nil || report.Rotated != 1 {
		t.Fatalf("the victim does not rotate: %+v, %v", report, err)
	}
	s.settle(t)
	d := s.detail(t, "victim")
	standings := map[certificate.Standing]int{}
	for _, c := range d.Certificates {
		standings[c.Standing]++
	}
	want := map[certificate.Standing]int{certificate.Active: 1, certificate.Inactive: 2}
	if diff := cmp.Diff(want, standings); diff != "" || d.Member {
		t.Errorf("what the victim holds (- want): %s, and it is a member: %t", diff, d.Member)
	}
}
