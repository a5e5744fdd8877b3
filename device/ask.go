package device

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// Refused is the error for a request that the vendor refused and that asking
// again cannot change.
type Refused struct {
	Action protocol.Action
	Reason protocol.Reason
	Detail string // for people; may be empty
}

func (r *Refused) Error() string {
	if r.Detail == "" {
		return fmt.Sprintf("%s refused: %s", r.Action, r.Reason)
	}
	return fmt.Sprintf("%s refused: %s (%s)", r.Action, r.Reason, r.Detail)
}

// errNotYet is the kind of a refusal that asking again may change.
var errNotYet = errors.New("not yet")

// The reasons after which to ask again even where the vendor names no time:
// the original never does.
var passing = []protocol.Reason{
	protocol.RegistryFailed, protocol.ActivationFailed, protocol.LinkFailed,
	protocol.IssueFailed, protocol.RegisterFailed, protocol.AttachFailed, protocol.PolicyFailed,
	protocol.PublishFailed, protocol.TooManyRequests, protocol.TryAgainLater, protocol.Internal,
}

// getBody and ackBody are the requests as protocol.DecodeGet and DecodeAck
// read them.
type getBody struct {
	CSR                   string `json:"csr"`
	PreviousCertificateID string `json:"previousCertificateId,omitempty"`
	ClientToken           string `json:"clientToken"`
}

type ackBody struct {
	PreviousCertificateID string `json:"previousCertificateId,omitempty"`
	CertificateID         string `json:"certificateId,omitempty"`
	Proof                 string `json:"proof,omitempty"`
	TrustAnchorsSHA256    string `json:"trustAnchorsSha256,omitempty"`
	ClientToken           string `json:"clientToken"`
}

// request is a get or an ack. take looks at an accepted answer; an answer it
// refuses is passed over as one that belongs to something else. fail, where
// set, may look at the error where no answer was taken.
type request struct {
	action protocol.Action
	topics protocol.Topics
	body   any // nil for an empty one
	token  string
	take   func([]byte) error
	fail   func(error)
}

// ask asks the vendor until it answers. It returns nil once take took an
// accepted answer, *Refused, or what stands in the way.
func (a *Agent) ask(ctx context.Context, c *connection, r request) error {
	if err := a.listenFor(ctx, c, r); err != nil {
		return err
	}
	return a.persist(ctx, func() (int, error) { return a.askOnce(ctx, c, r) })
}

// listenFor subscribes to the replies. A device subscribes as the original's
// firmware does, with one wildcard, because a broker's policy may allow that
// filter literally.
func (a *Agent) listenFor(ctx context.Context, c *connection, r request) error {
	accepted, rejected := r.topics.Accepted(a.cfg.Device, r.action), r.topics.Rejected(a.cfg.Device, r.action)
	filters := []string{accepted, rejected}
	parent := accepted[:strings.LastIndex(accepted, "/")+1]
	if parent != "" && parent == rejected[:strings.LastIndex(rejected, "/")+1] {
		filters = []string{parent + "+"}
	}
	return c.subscribe(ctx, a.cfg.Retry.Reply, filters...)
}

func (a *Agent) askOnce(ctx context.Context, c *connection, r request) (retryAfter int, err error) {
	q := question{
		message:  message{topic: r.topics.Request(a.cfg.Device, r.action)},
		accepted: r.topics.Accepted(a.cfg.Device, r.action),
		rejected: r.topics.Rejected(a.cfg.Device, r.action),
		token:    r.token, take: r.take,
	}
	if r.body != nil {
		if q.payload, err = json.Marshal(r.body); err != nil {
			return 0, err
		}
	}
	a.tell(Event{Kind: Asked, Action: r.action})
	payload, accepted, err := c.ask(ctx, a.cfg.Retry.Reply, q)
	if err != nil && r.fail != nil {
		r.fail(err)
	}
	if err != nil || accepted {
		return 0, err
	}
	return refusal(r.action, payload)
}

func refusal(action protocol.Action, payload []byte) (retryAfter int, err error) {
	var rejected protocol.Rejected
	if err := protocol.Decode(payload, &rejected); err != nil {
		return 0, fmt.Errorf("%w that can be read: %w", ErrNoAnswer, err)
	}
	if rejected.Message == "" {
		return 0, fmt.Errorf("%w that gives a reason", ErrNoAnswer)
	}
	refused := &Refused{Action: action, Reason: rejected.Message, Detail: rejected.Detail}
	if rejected.RetryAfter > 0 || slices.Contains(passing, rejected.Message) {
		return rejected.RetryAfter, fmt.Errorf("%w: %s", errNotYet, refused.Error())
	}
	return 0, refused
}

// persist repeats try while it finds no answer or is told "not yet", and
// returns its last error. Where the vendor names the time to come back, that
// is no attempt: it is alive and knows of us. The others are counted.
func (a *Agent) persist(ctx context.Context, try func() (retryAfter int, err error)) error {
	pace := pacer{retry: a.cfg.Retry}
	for {
		retryAfter, err := try()
		if !errors.Is(err, ErrNoAnswer) && !errors.Is(err, errNotYet) {
			return err
		}
		var pause time.Duration
		if retryAfter > 0 {
			pause = a.after(retryAfter)
		} else if pause = pace.next(); pace.attempt >= a.cfg.Retry.Attempts {
			return err
		}
		a.tell(Event{Kind: Waiting, Pause: pause, Err: err})
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// token returns a text that no other request carries.
func (a *Agent) token() string { return rand.Text() }
