package device

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

func TestTakeOverUsesOneClientID(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	cfg.TakeOver = true
	w.script(func() { w.refuse = func(_, id string) bool { return id != deviceUnderTest } })
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}

func TestRefusedSubscriptionIsAnError(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.script(func() { w.denySub = "cdf/certificates/" + deviceUnderTest + "/get/+" })
	err := open(t, cfg).Rotate(deadline(t))
	if err == nil || !strings.Contains(err.Error(), "refused by the broker") || w.gets != 0 {
		t.Errorf("%d gets, %v", w.gets, err)
	}
}

func TestALPNIsOfferedWhereItIsWanted(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		w := newWorld(t)
		cfg := w.provision()
		cfg.ALPN = wanted
		if err := open(t, cfg).Rotate(deadline(t)); err != nil {
			t.Fatal(err)
		}
		checkRotated(t, w, cfg, 1)
		if want := map[bool]string{true: "x-amzn-mqtt-ca"}[wanted]; len(w.spoken) != 1 || !w.spoken[want] {
			t.Errorf("wanted %t: agreed on %v", wanted, w.spoken)
		}
	}
}

func TestUnreachableBrokerDoesNotOutlastTheContext(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cfg.Broker = silent.Addr().String()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := open(t, cfg).Rotate(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestBrokerOfAnotherCAIsNotTrusted(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	cfg := w.provision()
	cfg.Roots = other.roots
	err := open(t, cfg).Rotate(deadline(t))
	if unknown := (x509.UnknownAuthorityError{}); !errors.As(err, &unknown) {
		t.Errorf("got %v", err)
	}
}

// What a broker has retained on the topics of answers was not meant for what is asked
// now: an ack that nobody heard must not be taken for one that was answered.
func TestRetainedMessagesAnswerNothing(t *testing.T) {
	w := newWorld(t)
	seen := new(diary)
	cfg := w.provision()
	cfg.Event, cfg.Retry.Reply = seen.note, 50*time.Millisecond
	w.script(func() { w.onAck = func(int) (any, bool) { return nil, false } })
	topics := protocol.DefaultTopics()
	for topic, reply := range map[string]any{
		topics.Accepted(deviceUnderTest, protocol.Ack): protocol.AckAccepted{DeviceID: deviceUnderTest, Action: protocol.Ack, Message: "OK"},
		topics.Rejected(deviceUnderTest, protocol.Get): protocol.Rejected{DeviceID: deviceUnderTest, Action: protocol.Get, Message: protocol.NotAllowed},
	} {
		if err := w.broker.Publish(topic, protocol.Encode(reply), true, 1); err != nil {
			t.Fatal(err)
		}
	}
	a := open(t, cfg)
	old := a.Current()
	err := a.Rotate(deadline(t))
	if isRefused(err) || seen.count(Acknowledged) != 0 || seen.count(Promoted) != 0 || !a.store.current.chain[0].Equal(old.Leaf) {
		t.Errorf("%v; acknowledged %d times, of which the vendor took none", err, seen.count(Acknowledged))
	}
	w.script(func() { w.onAck = nil })
	cfg.Retry.Reply = time.Second
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}
