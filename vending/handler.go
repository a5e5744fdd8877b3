package vending

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Publisher hands a reply to the broker.
type Publisher interface {
	Publish(ctx context.Context, topic string, payload []byte) error
}

// The kinds of errors that a Queue returns instead of an outcome.
var (
	ErrBusy = errors.New("the device has a request of this kind waiting already")
	ErrLate = errors.New("the answer took too long")
)

// Queue gives each request its turn: one of a device at a time, an ack before
// a get, and no more at once than the world can serve.
type Queue interface {
	// Do runs work when its turn comes and returns its outcome. ErrBusy if
	// one of the same device and action waits already; ErrLate if the
	// outcome took too long, in which case the work is finished behind.
	Do(ctx context.Context, id registry.DeviceID, action protocol.Action, work func(context.Context) Outcome) (Outcome, error)
}

// Outcome is what became of a request, for the reply, the log and the metrics.
type Outcome struct {
	Device      registry.DeviceID
	Action      protocol.Action
	Accepted    bool
	Reason      protocol.Reason // of a rejection
	Certificate certificate.ID  // vended, or acked with
	Evidence    certificate.Evidence
	Took        time.Duration
	Err         error    // for the operator only
	Observed    bool     // it is what would have become of it: there was no reply
	Effects     []string // that it would have had, where it was only observed; for people

	reply  any
	token  string
	settle *rotation.Rotation
}

// Handler answers messages: it reads them, has the vendor answer, and
// publishes exactly one reply to each. It is a backend.Receiver, safe for
// concurrent use.
type Handler struct {
	Vendor    *Vendor
	Topics    protocol.Topics
	Queue     Queue
	Publisher Publisher
	// Served is told of every request once its reply is out.
	Served func(Outcome)
	// Settle is handed a rotation that has steps left to be done, once its
	// reply is out. It must not wait for them.
	Settle func(rotation.Rotation)
	// Observes says that nothing is answered: what would have been is handed to
	// Served. No port but the sightings is asked to change anything.
	Observes bool
}

// Present answers a connection.
func (h *Handler) Present(ctx context.Context, caller Caller) error {
	if h.Observes {
		return h.Vendor.admits(ctx, caller)
	}
	return h.Vendor.Present(ctx, caller)
}

// Serve answers one message. A topic that is not a request's, or names no
// device that could exist, has nobody to answer to and is dropped.
func (h *Handler) Serve(ctx context.Context, m Message) {
	start := h.Vendor.Now()
	name, action, ok := h.Topics.Parse(m.Topic)
	if !ok {
		return
	}
	device, err := registry.ParseDeviceID(name)
	if err != nil {
		return
	}
	if m.Caller.Device != "" && m.Caller.Device != device {
		m.Caller = Caller{Device: device} // whose topic it is; nothing is to be learnt of the other
		h.finish(ctx, start, rejected(outcomeOf(action, m, tokenOf(action, m)),
			explain(protocol.NotBound, "a device asks on its own topics only")))
		return
	}
	m.Caller.Device = device
	if h.Observes {
		outcome, err := h.Queue.Do(ctx, device, action, func(ctx context.Context) Outcome { return h.observe(ctx, action, m) })
		if err != nil {
			outcome = rejected(outcomeOf(action, m, ""), later(time.Second, err))
		}
		h.finish(ctx, start, outcome)
		return
	}
	if err := h.Vendor.Heard(ctx, m.Caller); err != nil {
		h.finish(ctx, start, rejected(outcomeOf(action, m, tokenOf(action, m)), asError(err)))
		return
	}
	outcome, err := h.Queue.Do(ctx, device, action, func(ctx context.Context) Outcome {
		return h.answer(ctx, action, m)
	})
	if err != nil {
		outcome = rejected(outcomeOf(action, m, tokenOf(action, m)), later(time.Second, err))
	}
	h.finish(ctx, start, outcome)
}

// answer has the vendor answer. A panic ends one request, not everybody's
// daemon.
func (h *Handler) answer(ctx context.Context, action protocol.Action, m Message) (o Outcome) {
	o = outcomeOf(action, m, "")
	defer func() {
		if p := recover(); p != nil {
			o = rejected(o, panicked(p))
		}
	}()
	at := protocol.Address{Device: string(o.Device), Action: action, Certificate: string(m.Caller.Certificate)}
	if action == protocol.Ack {
		return h.answerAck(ctx, o, m, at)
	}
	return h.answerGet(ctx, o, m, at)
}

func panicked(p any) *Error {
	return reject(protocol.Internal, fmt.Errorf("panic of type %T\n%s", p, debug.Stack()))
}

// outcomeOf is what is known of a request before it is answered.
func outcomeOf(action protocol.Action, m Message, token string) Outcome {
	return Outcome{
		Device: m.Caller.Device, Action: action, Evidence: m.Caller.Evidence,
		Certificate: m.Caller.Certificate, token: token,
	}
}

func (h *Handler) answerGet(ctx context.Context, o Outcome, m Message, at protocol.Address) Outcome {
	request, err := protocol.DecodeGet(m.Payload, at)
	o.token = request.ClientToken
	if err != nil {
		return rejected(o, explain(protocol.Malformed, err.Error()))
	}
	reply, err := h.Vendor.Get(ctx, m.Caller, request)
	if err != nil {
		return rejected(o, asError(err))
	}
	reply.ClientToken = o.token
	o.Accepted, o.reply, o.Certificate = true, reply, certificate.ID(reply.CertificateID)
	return o
}

func (h *Handler) answerAck(ctx context.Context, o Outcome, m Message, at protocol.Address) Outcome {
	request, err := protocol.DecodeAck(m.Payload, at)
	o.token = request.ClientToken
	if err != nil {
		return rejected(o, explain(protocol.Malformed, err.Error()))
	}
	reply, rotated, err := h.Vendor.Ack(ctx, m.Caller, request)
	var unfinished *Unfinished
	if err != nil && !errors.As(err, &unfinished) {
		return rejected(o, asError(err))
	}
	reply.ClientToken = o.token
	o.Accepted, o.reply, o.settle, o.Err = true, reply, rotated, err
	return o
}

func rejected(o Outcome, e *Error) Outcome {
	o.Reason, o.Err = e.Reason, e.Err
	seconds := int((e.Wait + time.Second - 1) / time.Second)
	if e.Reason == protocol.TryAgainLater || e.Reason == protocol.TooManyRequests {
		seconds = max(seconds, 1)
	}
	o.reply = protocol.Rejected{
		DeviceID: string(o.Device), Action: o.Action, Message: e.Reason, Detail: e.Detail,
		RetryAfter: seconds, ClientToken: o.token,
	}
	return o
}

// finish publishes the reply, and if an accepting one cannot be published
// tries to say at least that.
func (h *Handler) finish(ctx context.Context, start time.Time, o Outcome) {
	if h.Observes {
		o.Observed, o.Took = true, h.Vendor.Now().Sub(start)
		h.Served(o)
		return
	}
	if err := h.publish(ctx, o); err != nil {
		o.Err = errors.Join(o.Err, fmt.Errorf("publish the reply: %w", err))
		if o.Accepted {
			o.Accepted = false
			failed := rejected(o, reject(protocol.PublishFailed, o.Err))
			o.Reason = failed.Reason
			o.Err = errors.Join(o.Err, h.publish(ctx, failed))
		}
	}
	if o.settle != nil && len(o.settle.Behind) > 0 {
		h.Settle(*o.settle)
	}
	o.Took = h.Vendor.Now().Sub(start)
	h.Served(o)
}

func (h *Handler) publish(ctx context.Context, o Outcome) error {
	topic := h.Topics.Rejected(string(o.Device), o.Action)
	if o.Accepted {
		topic = h.Topics.Accepted(string(o.Device), o.Action)
	}
	return h.Publisher.Publish(ctx, topic, protocol.Encode(o.reply))
}

// tokenOf reads the client token of a request that got no turn, so that its
// sender knows which answer this is.
func tokenOf(action protocol.Action, m Message) string {
	if action == protocol.Ack {
		request, _ := protocol.DecodeAck(m.Payload, protocol.Address{})
		return request.ClientToken
	}
	request, _ := protocol.DecodeGet(m.Payload, protocol.Address{})
	return request.ClientToken
}
