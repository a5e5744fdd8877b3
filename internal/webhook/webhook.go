// Package webhook tells others over HTTPS what has happened: signed, tried
// again until it is taken, and out of everybody's way. What is still to be told
// is in the store.
//
// Read Sender.Run for what is sent when, and Sign for what a receiver verifies.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/store"
)

// The headers of a delivery. SignatureHeader is as Sign writes it.
const (
	SignatureHeader = "Certvendor-Signature"
	EventHeader     = "Certvendor-Event"
	IDHeader        = "Certvendor-Event-Id"
)

// Bounds of a delivery: how long it may take, and what is read of the answer.
const (
	deliverTime = 10 * time.Second
	maxAnswer   = 4 << 10
)

// How long until the next attempt: twice as long each time, with jitter, so
// that a receiver that was down for all is not met by all at once.
const (
	firstWait   = time.Second
	longestWait = time.Hour
)

// atATime is how many notices are read from the outbox together.
const atATime = 20

// Event is the body of a delivery.
type Event struct {
	ID     string            `json:"id"` // the same in every attempt
	Event  string            `json:"event"`
	At     time.Time         `json:"at"`
	Detail map[string]string `json:"detail"`
}

// Outbox keeps what is still to be told; see store.Outbox.
type Outbox interface {
	Due(ctx context.Context, now time.Time, most int) ([]store.Notice, error)
	Sent(ctx context.Context, id string) error
	Failed(ctx context.Context, id string, next time.Time) error
	Expire(ctx context.Context, before time.Time) (int, error)
}

// Outcome is what became of a delivery, for the metrics.
type Outcome string

// The outcomes.
const (
	Delivered Outcome = "delivered"
	Failed    Outcome = "failed"  // this attempt; there will be another
	Dropped   Outcome = "dropped" // it was too old
)

// Config is what a Sender needs. All but Roots is required.
type Config struct {
	URL    string
	Secret string
	Roots  *x509.CertPool // that verify the receiver; nil: the system's
	Keep   time.Duration  // how long it is tried
	Outbox Outbox
	Count  func(what Outcome, n int)
	Now    func() time.Time
	Log    zerolog.Logger
}

// minSecret is the least number of octets of a secret that is worth the name.
const minSecret = 16

// Sender delivers what is in the outbox.
type Sender struct {
	Config
	host   string // for the log: the rest of the URL may be a secret
	client *http.Client
}

// New returns a sender, or says what cannot work. The error holds neither the
// secret nor the URL.
func New(c Config) (*Sender, error) {
	target, err := url.Parse(c.URL)
	if err != nil || target.Scheme != "https" || target.Host == "" {
		return nil, errors.New("webhook.url: must be an https:// URL")
	}
	if len(c.Secret) < minSecret {
		return nil, fmt.Errorf("webhook.secret: has less than %d octets", minSecret)
	}
	return &Sender{Config: c, host: target.Host, client: &http.Client{
		Timeout: deliverTime,
		Transport: staying{&http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
			IdleConnTimeout: time.Minute, MaxIdleConns: 1, MaxResponseHeaderBytes: 64 << 10,
		}},
	}}, nil
}

// staying is a transport whose answers send nobody elsewhere: whoever configured the
// URL trusts that one. Where they would have, which may repeat the URL, is not read,
// or it would stand in the error of a client that cannot make sense of it.
type staying struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (s staying) RoundTrip(request *http.Request) (*http.Response, error) {
	answer, err := s.Transport.RoundTrip(request)
	if err == nil {
		answer.Header.Del("Location")
	}
	return answer, err
}

// Run delivers until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	defer s.client.CloseIdleConnections()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := s.round(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error().Err(err).Msg("webhook")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// round drops what is too old and tries what is due.
func (s *Sender) round(ctx context.Context) error {
	dropped, err := s.Outbox.Expire(ctx, s.Now().Add(-s.Keep))
	if err != nil {
		return err
	}
	if dropped > 0 {
		s.Count(Dropped, dropped)
		s.Log.Error().Str("host", s.host).Int("events", dropped).Msg("webhook: nobody took these within webhook.keep; they are dropped")
	}
	due, err := s.Outbox.Due(ctx, s.Now(), atATime)
	if err != nil {
		return err
	}
	for _, n := range due {
		if err := s.try(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sender) try(ctx context.Context, n store.Notice) error {
	failed := s.deliver(ctx, n)
	if ctx.Err() != nil {
		return nil // it has neither failed nor, for all we know, arrived
	}
	line := s.Log.Info()
	if failed != nil {
		s.Count(Failed, 1)
		line = s.Log.Warn().Err(failed).Int("attempts", n.Attempts+1)
	} else {
		s.Count(Delivered, 1)
	}
	line.Str("host", s.host).Str("event", n.Kind).Str("id", n.ID).Msg("webhook")
	if failed == nil {
		return s.Outbox.Sent(ctx, n.ID)
	}
	return s.Outbox.Failed(ctx, n.ID, s.Now().Add(wait(n.Attempts)))
}

// wait returns how long to wait after so many attempts that failed, and one
// more: between half and all of a time that doubles.
func wait(attempts int) time.Duration {
	longest := longestWait
	if attempts < 12 {
		longest = min(firstWait<<attempts, longestWait)
	}
	return longest/2 + rand.N(longest/2)
}

// deliver makes one attempt. Its error names the host at most.
func (s *Sender) deliver(ctx context.Context, n store.Notice) error {
	body, err := json.Marshal(Event{ID: n.ID, Event: n.Kind, At: n.At.UTC(), Detail: n.Detail})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("webhook.url cannot be asked")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "certvendor")
	request.Header.Set(EventHeader, n.Kind)
	request.Header.Set(IDHeader, n.ID)
	request.Header.Set(SignatureHeader, Sign(s.Secret, s.Now(), body))
	answer, err := s.client.Do(request)
	var whole *url.Error
	if errors.As(err, &whole) {
		err = whole.Err // without the URL
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer) // so that the connection serves again, where it is short
	switch {
	case answer.StatusCode >= 200 && answer.StatusCode < 300:
		return nil
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return errors.New("answered " + strconv.Itoa(answer.StatusCode) + ": redirects are not followed")
	}
	return errors.New("answered " + strconv.Itoa(answer.StatusCode))
}
