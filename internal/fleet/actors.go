package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/certvendor/certvendor/protocol"
)

// impersonate tries, with the device's own certificate, to be its victim: to
// hear what the vendor tells it, to ask in its name, to connect under its
// client id. It returns an error for the first that is not refused.
func (o Options) impersonate(ctx context.Context, d Device, r *Result) error {
	attempts := []struct {
		what string
		try  func(context.Context, *session) error
	}{
		{"subscribe to the replies of " + d.Victim, func(ctx context.Context, s *session) error {
			return s.subscribe(ctx, o.repliesTo(d.Victim, protocol.Get))
		}},
		{"publish a get of " + d.Victim, func(ctx context.Context, s *session) error {
			return s.publish(ctx, o.Topics.Request(d.Victim, protocol.Get), []byte("{}"))
		}},
	}
	for _, a := range attempts {
		s, err := o.connect(ctx, d.Name, r.current)
		if err != nil {
			return err
		}
		err = a.try(ctx, s)
		s.close()
		if err := r.refused(ctx, a.what, err); err != nil {
			return err
		}
	}
	s, err := o.connect(ctx, d.Victim, r.current)
	if err == nil {
		s.close()
	}
	return r.refused(ctx, "connect as "+d.Victim, err)
}

// refused notes that something was refused, or returns an error if it was not.
// A broker refuses a message by closing the connection: MQTT 3.1.1 has no
// other word for it.
func (r *Result) refused(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil || errors.Is(err, errSilence) {
		return fmt.Errorf("%s: wanted a refusal, got %w", what, orGranted(err))
	}
	r.Notes = append(r.Notes, what+": refused")
	return nil
}
