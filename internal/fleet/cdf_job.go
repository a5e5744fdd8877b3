package fleet

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

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
			f.started = first(f.started, time.Now())
			return e.JobID, nil
		}
		if _, err := s.receive(ctx, 0, notify); err != nil {
			return "", err
		}
	}
}

var errJobFailed = errors.New("reported its job FAILED, as it was meant to")

// failJob is firmware that cannot rotate.
func (o Options) failJob(ctx context.Context, d Device, r *Result) error {
	s, err := o.connect(ctx, d.Name, r.old)
	if err != nil {
		return err
	}
	defer s.close()
	f := &original{o: o, d: d, r: r}
	if f.slot.job, err = f.awaitJob(ctx, s); err != nil {
		return err
	}
	if err := f.end(ctx, s, protocol.JobFailed); err != nil {
		return err
	}
	return errJobFailed
}

// report ends the job.
func (f *original) report(ctx context.Context, s *session) error {
	if err := f.end(ctx, s, protocol.JobSucceeded); err != nil {
		return err
	}
	f.slot.reported = true
	return f.slot.write()
}

func (f *original) end(ctx context.Context, s *session, status protocol.JobStatus) error {
	update := f.jobTopic(f.slot.job + "/update")
	if err := s.subscribe(ctx, update+"/+"); err != nil {
		return err
	}
	_, err := s.ask(ctx, update, protocol.Encode(protocol.JobUpdate{Status: status}), update+"/accepted", update+"/rejected")
	return err
}

// repliesTo is the filter of an action's replies, as original firmware
// subscribes.
func (o Options) repliesTo(name string, action protocol.Action) string {
	accepted := o.Topics.Accepted(name, action)
	return accepted[:strings.LastIndex(accepted, "/")+1] + "+"
}

// refusedReason is the reason of a rejected reply.
type refusedReason struct{ protocol.Reason }

func (r refusedReason) Error() string { return "refused: " + string(r.Reason) }

// demand is a request of simple firmware.
type demand struct {
	device string
	action protocol.Action
	body   []byte
	twice  bool                       // it goes out again 10 ms later
	fits   func(payload []byte) error // an accepted answer that does not is passed over; nil takes any
}

// say publishes a request and returns what it is granted.
func (o Options) say(ctx context.Context, s *session, d demand) ([]byte, error) {
	topic := o.Topics.Request(d.device, d.action)
	if d.twice {
		s.client.Publish(topic, 1, false, d.body) // what becomes of it is the network's affair
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
	if err := s.publish(ctx, topic, d.body); err != nil {
		return nil, err
	}
	return o.hear(ctx, s, d)
}

// hear waits for the answer to a request.
func (o Options) hear(ctx context.Context, s *session, d demand) ([]byte, error) {
	accepted, rejected := o.Topics.Accepted(d.device, d.action), o.Topics.Rejected(d.device, d.action)
	for until := time.Now().Add(s.wait); ; {
		m, err := s.receive(ctx, max(time.Until(until), time.Millisecond), accepted, rejected)
		if err != nil {
			return nil, err
		}
		if m.Topic() == rejected {
			var refusal protocol.Rejected
			if err := protocol.Decode(m.Payload(), &refusal); err != nil {
				return nil, err
			}
			return nil, refusedReason{refusal.Message}
		}
		if d.fits == nil || d.fits(m.Payload()) == nil {
			return m.Payload(), nil
		}
	}
}
