package device

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// question is a request and where its answer comes.
type question struct {
	message
	accepted, rejected string
	token              string             // an answer that carries another one is not ours
	take               func([]byte) error // looks at an accepted answer; nil takes any
}

// ask publishes the question and waits for its answer. It returns the payload
// and whether it was accepted. An answer that take refuses is passed over;
// where none better comes, its error is returned.
func (c *connection) ask(ctx context.Context, wait time.Duration, q question) ([]byte, bool, error) {
	answers, stop := c.listen(q.accepted, q.rejected)
	defer stop()
	// The answer may overtake the PUBACK, and says more than it.
	err := c.publish(ctx, wait, q.message)
	if err != nil && len(answers.messages) == 0 {
		return nil, false, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	unfit := ErrNoAnswer
	for {
		select {
		case m := <-answers.messages:
			if !q.answeredBy(m.payload) {
				continue
			}
			if m.topic == q.rejected {
				return m.payload, false, nil
			}
			if q.take == nil {
				return m.payload, true, nil
			}
			if err := q.take(m.payload); err != nil {
				unfit = fmt.Errorf("%w that fits: %w", ErrNoAnswer, err)
				continue
			}
			return m.payload, true, nil
		case <-timer.C:
			return nil, false, unfit
		case <-c.lost:
			return nil, false, ErrConnectionLost
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// answeredBy reports whether the payload may be the answer. The original
// vendor repeats no token, so an answer without one may be.
func (q question) answeredBy(payload []byte) bool {
	var echo struct {
		ClientToken string `json:"clientToken"`
	}
	if err := json.Unmarshal(payload, &echo); err != nil {
		return false
	}
	return echo.ClientToken == "" || echo.ClientToken == q.token
}
