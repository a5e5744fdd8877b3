package aws

import (
	"context"
	"errors"
	"fmt"
)

// deathsAllowed is how many connections may end under a publish before it is
// taken for what ends them: AWS IoT closes the connection of a client that
// publishes where it may not.
const deathsAllowed = 3

var errDeadly = errors.New("every connection that it was sent over was closed")

// Publish hands a reply to the broker, QoS 1, not retained, over as many
// connections as it takes. When it returns nil the broker has it. Otherwise
// the request that it answers is left with the broker, unless it is this reply
// that the broker does not want.
func (b *MQTTBus) Publish(ctx context.Context, topic string, payload []byte) error {
	limited, cancel := context.WithTimeout(ctx, b.config.PublishTime)
	defer cancel()
	err := b.publish(limited, topic, payload)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, errDeadly):
		markUnheard(ctx)
	}
	b.counts.unpublished.Add(1)
	return fmt.Errorf("publish on %s: %w", topic, err)
}

func (b *MQTTBus) publish(ctx context.Context, topic string, payload []byte) error {
	select {
	case b.window <- struct{}{}:
		defer func() { <-b.window }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var k *link
	for deaths := 0; ; {
		if err := b.pace.Wait(ctx); err != nil {
			return err
		}
		next, err := b.publisher.await(ctx, k)
		if err != nil {
			return err
		}
		k = next
		if err = k.publish(ctx, topic, payload); err == nil || ctx.Err() != nil {
			return err
		}
		if deaths++; deaths == deathsAllowed {
			return fmt.Errorf("%w: %w", errDeadly, err)
		}
		// A client that has failed is not asked again, even if nobody has
		// noticed yet that its connection is gone.
		k.renewWhenIdle()
	}
}

// publish returns nil once the broker has acknowledged the message.
func (k *link) publish(ctx context.Context, topic string, payload []byte) error {
	token := k.client.Publish(topic, 1, false, payload)
	select {
	case <-token.Done():
		return token.Error()
	case <-k.lost:
		return errLost
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await returns a connection other than the one that failed, as soon as there
// is one.
func (l *line) await(ctx context.Context, failed *link) (*link, error) {
	for {
		s := l.state.Load()
		if s.link != nil && s.link != failed {
			return s.link, nil
		}
		select {
		case <-s.next:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), s.err)
		}
	}
}
