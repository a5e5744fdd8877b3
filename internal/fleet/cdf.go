package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// What CDF firmware does about a get that was refused or not answered: it asks
// again, this often, after this long, whatever the refusal says.
const (
	cdfAttempts = 4
	cdfPause    = time.Second
)

// original is one device with CDF firmware. Its slot holds one pair.
type original struct {
	o       Options
	d       Device
	r       *Result
	started time.Time
}

// playCDF lets CDF firmware carry out one job.
func (o Options) playCDF(ctx context.Context, d Device, r *Result) error {
	f := &original{o: o, d: d, r: r}
	s, err := o.connect(ctx, d.Name, r.current)
	if err != nil {
		return err
	}
	defer func() { s.close() }() // whichever connection is the last
	jobID, err := f.awaitJob(ctx, s)
	if err != nil {
		return fmt.Errorf("wait for a job: %w", err)
	}
	if err := f.get(ctx, s); err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if err := f.ackEarly(ctx, s); err != nil {
		return fmt.Errorf("early ack: %w", err)
	}
	s.close()
	connecting := time.Now()
	next, err := o.connect(ctx, d.Name, r.current)
	if err != nil {
		return err
	}
	s, r.Connect = next, time.Since(connecting)
	return f.finish(ctx, s, jobID)
}

func (f *original) jobTopic(suffix string) string {
	return "$aws/things/" + f.d.Name + "/jobs/" + suffix
}

// awaitJob starts the next rotation job and returns its id.
func (f *original) awaitJob(ctx context.Context, s *session) (string, error) {
	start, notify := f.jobTopic("start-next"), f.jobTopic("notify-next")
	if err := s.subscribe(ctx, notify, start+"/+"); err != nil {
		return "", err
	}
	for {
		m, err := s.ask(ctx, start, []byte("{}"), start+"/accepted", start+"/rejected")
		if err != nil {
			return "", err
		}
		var reply protocol.JobExecutionReply
		if err := protocol.Decode(m.Payload(), &reply); err != nil {
			return "", err
		}
		var document protocol.JobDocument
		if e := reply.Execution; e != nil && protocol.Decode(e.JobDocument, &document) == nil && document.Operation == protocol.RotateCertificates {
			f.started = time.Now()
			return e.JobID, nil
		}
		if _, err := s.receive(ctx, 0, notify); err != nil {
			return "", err
		}
	}
}

// get asks for a certificate, with a new key each time, and overwrites the
// slot with what comes.
func (f *original) get(ctx context.Context, s *session) error {
	if err := s.subscribe(ctx, f.o.repliesTo(f.d.Name, protocol.Get)); err != nil {
		return err
	}
	asked := time.Now()
	var err error
	for attempt := range cdfAttempts {
		if attempt > 0 {
			if err := pause(ctx, cdfPause); err != nil {
				return err
			}
		}
		if err = f.getOnce(ctx, s); err == nil {
			f.r.Get = time.Since(asked)
			return nil
		}
		if errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (f *original) getOnce(ctx context.Context, s *session) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: f.d.Name}}, key)
	if err != nil {
		return err
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	body, err := json.Marshal(map[string]string{"csr": string(csr)})
	if err != nil {
		return err
	}
	payload, err := f.say(ctx, s, protocol.Get, body)
	if err != nil {
		return err
	}
	var reply protocol.GetAccepted
	if err := protocol.Decode(payload, &reply); err != nil {
		return err
	}
	next := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode([]byte(reply.Certificate + "\n" + reply.Chain)); block != nil; block, rest = pem.Decode(rest) {
		next.Certificate = append(next.Certificate, block.Bytes)
	}
	if len(next.Certificate) == 0 {
		return errors.New("the answer holds no certificate")
	}
	f.r.current = next // one slot: the old pair is gone now
	return nil
}

// refusedReason is the reason of a rejected reply.
type refusedReason struct{ protocol.Reason }

func (r refusedReason) Error() string { return "refused: " + string(r.Reason) }

// say publishes a request and returns what it is granted.
func (f *original) say(ctx context.Context, s *session, action protocol.Action, body []byte) ([]byte, error) {
	topics := f.o.Topics
	rejected := topics.Rejected(f.d.Name, action)
	m, err := s.ask(ctx, topics.Request(f.d.Name, action), body, topics.Accepted(f.d.Name, action), rejected)
	if err != nil {
		return nil, err
	}
	if m.Topic() != rejected {
		return m.Payload(), nil
	}
	var refusal protocol.Rejected
	if err := protocol.Decode(m.Payload(), &refusal); err != nil {
		return nil, err
	}
	return nil, refusedReason{refusal.Message}
}

// ackEarly acks over the old connection, where the firmware does so.
func (f *original) ackEarly(ctx context.Context, s *session) error {
	if f.d.Firmware != EarlyAcker && !f.d.AckEarly {
		return nil
	}
	if err := s.subscribe(ctx, f.o.repliesTo(f.d.Name, protocol.Ack)); err != nil {
		return err
	}
	_, err := f.say(ctx, s, protocol.Ack, []byte("{}"))
	if f.d.Firmware != EarlyAcker {
		f.r.Acked = err == nil
		return nil // this firmware does not look at the answer
	}
	var refused refusedReason
	if !errors.As(err, &refused) || refused.Reason != protocol.NotProven {
		return fmt.Errorf("wanted %s, got %w", protocol.NotProven, orGranted(err))
	}
	f.r.Notes = append(f.r.Notes, "ack over the old certificate: "+string(refused.Reason))
	return nil
}

// orGranted makes an error of having been granted what must be refused.
func orGranted(err error) error {
	if err == nil {
		return errGranted
	}
	return err
}

var errGranted = errors.New("was granted")

// finish reports the job over the new connection and acks, once.
func (f *original) finish(ctx context.Context, s *session, jobID string) error {
	update := f.jobTopic(jobID + "/update")
	if err := s.subscribe(ctx, update+"/+", f.o.repliesTo(f.d.Name, protocol.Ack)); err != nil {
		return err
	}
	body := protocol.Encode(protocol.JobUpdate{Status: protocol.JobSucceeded})
	if _, err := s.ask(ctx, update, body, update+"/accepted", update+"/rejected"); err != nil {
		return fmt.Errorf("report the job: %w", err)
	}
	f.r.Total = time.Since(f.started)
	if f.d.AckEarly {
		return nil // it has acked, and this firmware acks once
	}
	asked := time.Now()
	if _, err := f.say(ctx, s, protocol.Ack, []byte("{}")); err != nil {
		return fmt.Errorf("ack: %w", err)
	}
	f.r.Acked, f.r.Ack, f.r.Total = true, time.Since(asked), time.Since(f.started)
	return nil
}

// repliesTo is the filter of an action's replies, as original firmware
// subscribes.
func (o Options) repliesTo(name string, action protocol.Action) string {
	accepted := o.Topics.Accepted(name, action)
	return accepted[:strings.LastIndex(accepted, "/")+1] + "+"
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
