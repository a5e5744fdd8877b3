package standalone

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/rs/zerolog"
	"golang.org/x/time/rate"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// FuzzJobRequest holds what is true of any message that a device publishes
// below $aws/things/: it is answered once, on its own topic, or its connection
// ends; only an accepted answer changes anything, and that is one execution of
// the device's own that had not ended. {thingName} in the topic is the
// device's own name.
func FuzzJobRequest(f *testing.F) {
	for _, seed := range []struct{ topic, payload string }{
		{"{thingName}/jobs/get", ``},
		{"{thingName}/jobs/start-next", `{"statusDetails":{"step":"1"}}`},
		{"{thingName}/jobs/$next/get", `{"clientToken":"t"}`},
		{"{thingName}/jobs/rotate/get", `{"executionNumber":1,"includeJobDocument":false}`},
		{"{thingName}/jobs/rotate/update", `{"status":"SUCCEEDED","expectedVersion":"1","includeJobExecutionState":true}`},
		{"{thingName}/jobs/done/update", `{"status":"IN_PROGRESS"}`},
		{"dev2/jobs/rotate/update", `{"status":"FAILED"}`},
	} {
		f.Add(false, seed.topic, []byte(seed.payload))
		f.Add(true, seed.topic, []byte(seed.payload))
	}
	w := newJobDevices(f)
	f.Fuzz(func(t *testing.T, started bool, topic string, payload []byte) {
		m := said{device: "dev1", payload: payload}
		if started {
			m.device = "dev2"
		}
		if m.topic = protocol.Fill("$aws/things/"+topic, string(m.device)); len(m.topic) > math.MaxUint16 {
			return // no PUBLISH can hold it
		}
		w.news, w.ended = nil, 0
		defer w.restore(t)
		replies, ended := w.publish(t, m)
		accepted := checkAnswer(t, m, replies, ended)
		w.checkChange(t, m, accepted)
	})
}

// jobDevices are a broker and the API on a store on disk with two devices: the
// job "rotate" is queued for dev1 and in progress on dev2, and each of them has
// failed the job "done".
type jobDevices struct {
	broker *Broker
	store  store.Jobs
	made   []jobs.Execution // as they are before every message
	news   []string         // topics that were published on
	ended  int
}

func newJobDevices(f *testing.F) *jobDevices {
	now := func() time.Time { return jobTime }
	s, err := store.Open(f.Context(), store.Config{Path: filepath.Join(f.TempDir(), "store.db"), Instance: "one", Now: now})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	w := &jobDevices{store: s.Jobs()}
	w.broker, err = newBroker(BrokerConfig{
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, io.EOF },
		ClientCAs:   x509.NewCertPool, Topics: protocol.DefaultTopics(), Now: now, Log: zerolog.New(io.Discard),
	}, nil) // nobody connects over it
	if err != nil {
		f.Fatal(err)
	}
	w.broker.serving = f.Context()
	w.broker.ServeJobs(NewJobs(JobsConfig{
		Store: w.store, Publish: w.publishNews, Ended: func() { w.ended++ },
		InProgressTimeout: time.Hour, Now: now, Log: zerolog.New(io.Discard),
	}))
	w.release(f, s, "done", protocol.JobFailed, protocol.JobFailed)
	w.release(f, s, "rotate", protocol.JobQueued, protocol.JobInProgress)
	return w
}

// release makes a job, gives it to dev1 and dev2, and brings them to a status.
func (w *jobDevices) release(f *testing.F, s *store.Store, job string, statuses ...protocol.JobStatus) {
	f.Helper()
	ctx, devices := f.Context(), []registry.DeviceID{"dev1", "dev2"}
	_, err := w.store.Ensure(ctx, jobs.Job{ID: job, Document: []byte(`{"operation":"RotateCertificates"}`)})
	for _, device := range devices {
		err = errors.Join(err, s.Devices().Add(ctx, device, nil), s.Group().Add(ctx, device))
	}
	_, released := w.store.Release(ctx, len(devices))
	err = errors.Join(err, released)
	for i, device := range devices {
		_, updated := w.store.Update(ctx, device, job, 0, func(e jobs.Execution) (jobs.Execution, error) {
			if statuses[i] == protocol.JobQueued {
				return e, nil
			}
			return e.Update(protocol.JobUpdate{Status: statuses[i]}, jobTime)
		})
		e, found := w.store.Execution(ctx, device, job, 0)
		err, w.made = errors.Join(err, updated, found), append(w.made, e)
	}
	if err != nil {
		f.Fatal(err)
	}
}

func (w *jobDevices) publishNews(_ context.Context, topic string, payload []byte) error {
	var body map[string]any
	if err := protocol.Decode(payload, &body); err != nil {
		topic = "not JSON: " + topic
	}
	w.news = append(w.news, topic)
	return nil
}

// restore brings back what a message has changed.
func (w *jobDevices) restore(t *testing.T) {
	t.Helper()
	for _, e := range w.changed(t) {
		if _, err := w.store.Update(t.Context(), e[0].Device, e[0].JobID, e[0].Number,
			func(jobs.Execution) (jobs.Execution, error) { return e[0], nil }); err != nil {
			t.Fatal(err)
		}
	}
}

// changed returns the executions that are not as they were made: before and
// after.
func (w *jobDevices) changed(t *testing.T) (all [][2]jobs.Execution) {
	t.Helper()
	for _, before := range w.made {
		after, err := w.store.Execution(t.Context(), before.Device, before.JobID, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(before, after) {
			all = append(all, [2]jobs.Execution{before, after})
		}
	}
	return all
}

// said is a message of a device.
type said struct {
	device  registry.DeviceID
	topic   string
	payload []byte
}

// publish has the device send a PUBLISH over a connection of its own, and
// returns what is written to it, and whether the connection is ended.
func (w *jobDevices) publish(t *testing.T, m said) (replies []packets.Packet, ended bool) {
	conn := &playedConn{}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Publish}, TopicName: m.topic, Payload: m.payload}
	if err := pk.PublishEncode(&conn.toBroker); err != nil {
		t.Fatal(err)
	}
	err := w.read(conn, m.device)
	if errors.Is(err, errRouted) {
		t.Fatalf("%q: %v", m.topic, err)
	}
	device := &rawClient{t: t, conn: conn, reader: bufio.NewReader(&conn.toDevice), version: 4}
	for {
		pk, end := device.read()
		if errors.Is(end, io.EOF) {
			return replies, err != nil
		}
		if end != nil {
			t.Fatal(end)
		}
		replies = append(replies, pk)
	}
}

var errRouted = errors.New("the message was not taken as a request")

// read does with one PUBLISH what the broker does; its error ends the
// connection.
func (w *jobDevices) read(conn *playedConn, device registry.DeviceID) error {
	l := newMQTTLink(conn, w.broker.limits)
	l.device, l.jobs = device, rate.NewLimiter(rate.Inf, 0)
	l.client = w.broker.server.NewClient(l, "", string(device), false)
	l.accepted.Store(true)
	var header packets.FixedHeader
	if err := l.client.ReadFixedHeader(&header); err != nil {
		return err
	}
	pk, err := l.client.ReadPacket(&header)
	if err != nil {
		return err
	}
	if why, code, ok := w.broker.checkPublish(l, &pk); !ok {
		w.broker.hangUp(l, why, code)
		return packets.ErrRejectPacket
	}
	if !w.broker.serve(l, &pk) {
		return errRouted
	}
	return nil
}

// playedConn is a connection whose device is the test.
type playedConn struct {
	net.Conn
	toBroker, toDevice bytes.Buffer
}

func (c *playedConn) Read(p []byte) (int, error)       { return c.toBroker.Read(p) }
func (c *playedConn) Write(p []byte) (int, error)      { return c.toDevice.Write(p) }
func (c *playedConn) Close() error                     { return nil }
func (c *playedConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *playedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *playedConn) SetWriteDeadline(time.Time) error { return nil }

// checkAnswer holds that a message is answered once, on its own topic, or ends
// the connection without a word. It reports whether it was accepted.
func checkAnswer(t *testing.T, m said, replies []packets.Packet, ended bool) (accepted bool) {
	t.Helper()
	if ended {
		if len(replies) != 0 {
			t.Errorf("%q: the connection ended, with %d answers", m.topic, len(replies))
		}
		return false
	}
	own := "$aws/things/" + string(m.device) + "/jobs/"
	if len(replies) != 1 || !strings.HasPrefix(m.topic, own) {
		t.Fatalf("%q of %s: answers %+v", m.topic, m.device, replies)
	}
	verdict := strings.TrimPrefix(replies[0].TopicName, m.topic)
	body := object(t, replies[0].Payload)
	code, refused := body["code"]
	switch {
	case verdict != "/accepted" && verdict != "/rejected", refused != (verdict == "/rejected"):
		t.Errorf("%q is answered on %q with %s", m.topic, replies[0].TopicName, replies[0].Payload)
	case code == string(protocol.JobInternalError), body["timestamp"] != float64(jobTime.Unix()):
		t.Errorf("%q %q: %s", m.topic, m.payload, replies[0].Payload)
	}
	var asked struct {
		ClientToken string `json:"clientToken"`
	}
	if protocol.Decode(m.payload, &asked) == nil && utf8.RuneCountInString(asked.ClientToken) <= protocol.MaxClientToken &&
		asked.ClientToken != "" && body["clientToken"] != asked.ClientToken {
		t.Errorf("%q: token %q is answered with %s", m.topic, asked.ClientToken, replies[0].Payload)
	}
	return !refused
}

// checkChange holds that a message changes nothing unless it was accepted, and
// then at most one execution, which is the device's own and had not ended.
func (w *jobDevices) checkChange(t *testing.T, m said, accepted bool) {
	t.Helper()
	all, ended, news := w.changed(t), 0, "$aws/things/"+string(m.device)+"/jobs/notify"
	for _, e := range all {
		before, after := e[0], e[1]
		if after.Status.Terminal() {
			ended++
		}
		if !accepted || len(all) > 1 || before.Device != m.device || before.Status.Terminal() || after.Version != before.Version+1 {
			t.Errorf("%q of %s, accepted: %t: changed %+v into %+v", m.topic, m.device, accepted, before, after)
		}
		switch after.Status {
		case protocol.JobInProgress, protocol.JobSucceeded, protocol.JobFailed, protocol.JobRejected:
		default:
			t.Errorf("%q of %s: the device set %q", m.topic, m.device, after.Status)
		}
	}
	if w.ended != ended {
		t.Errorf("%q: %d executions ended, told %d times", m.topic, ended, w.ended)
	}
	for _, topic := range w.news {
		if len(all) == 0 || topic != news && topic != news+"-next" {
			t.Errorf("%q: published on %q", m.topic, topic)
		}
	}
}
