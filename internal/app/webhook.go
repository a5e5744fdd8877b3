package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certvendor/certvendor/internal/webhook"
	"github.com/certvendor/certvendor/rotation"
)

// Events that come of looking, not of a commit.
const (
	staleEvent  = "rotations.stale"
	caDaysEvent = "ca.days_left"
)

// newSender makes what delivers events, or nothing where nobody is told.
func (a *App) newSender() (*webhook.Sender, error) {
	w, count := a.config.Webhook, a.countDeliveries()
	if w.URL == "" {
		return nil, nil
	}
	secret, err := w.Secret.Value()
	if err != nil {
		return nil, fmt.Errorf("webhook.secret: %w", err)
	}
	var roots *x509.CertPool
	if w.CA != "" {
		text, err := os.ReadFile(w.CA)
		if err != nil {
			return nil, fmt.Errorf("webhook.ca: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("webhook.ca: %s: no certificate in it", w.CA)
		}
	}
	return webhook.New(webhook.Config{
		URL: w.URL, Secret: secret, Roots: roots, Keep: w.Keep, Outbox: a.world.Store().Outbox(), Now: a.now, Log: a.log,
		Count: count,
	})
}

// countDeliveries adds the numbers of what is told to the metrics, and returns
// what counts.
func (a *App) countDeliveries() func(webhook.Outcome, int) {
	deliveries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "certvendor_webhook_deliveries_total", Help: "Attempts to tell others, and events that nobody took in time, by outcome.",
	}, []string{"outcome"})
	for _, outcome := range []webhook.Outcome{webhook.Delivered, webhook.Failed, webhook.Dropped} {
		deliveries.WithLabelValues(string(outcome))
	}
	a.metrics.registry.MustRegister(deliveries)
	outbox := a.world.Store().Outbox()
	a.metrics.gauge("certvendor_webhook_waiting", "Events that others are still to be told.", func() float64 {
		ctx, cancel := context.WithTimeout(context.Background(), collectTime) // a scrape has no context of its own here
		defer cancel()
		n, err := outbox.Waiting(ctx)
		if err != nil {
			return math.NaN()
		}
		return float64(n)
	})
	return func(what webhook.Outcome, n int) { deliveries.WithLabelValues(string(what)).Add(float64(n)) }
}

// tellLooks tells what is not told by a commit: how many rotations are stale, and how
// near the end of the CA is. What was told last is in the store.
func (a *App) tellLooks(ctx context.Context) {
	if a.config.Webhook.URL == "" {
		return
	}
	for _, tell := range []func(context.Context) error{a.tellStale, a.tellCADays} {
		if err := tell(ctx); err != nil && ctx.Err() == nil {
			a.log.Error().Err(err).Msg("webhook")
		}
	}
}

// tellStale tells when there are more stale rotations than were told.
func (a *App) tellStale(ctx context.Context) error {
	counts, err := a.backend.Rotations.Counts(ctx)
	if err != nil {
		return err
	}
	outbox := a.world.Store().Outbox()
	before, err := outbox.Told(ctx, staleEvent)
	if err != nil {
		return err
	}
	told, _ := strconv.Atoi(before) // nothing was told yet
	stale, kind := counts.States[rotation.Stale], ""
	if stale > told {
		kind = staleEvent
	}
	return outbox.Tell(ctx, staleEvent, strconv.Itoa(stale), kind, map[string]string{
		"stale": strconv.Itoa(stale), "more": strconv.Itoa(stale - told),
	})
}

// tellCADays tells once for each of webhook.ca_days that has come.
func (a *App) tellCADays(ctx context.Context) error {
	days, known := a.caDays(ctx)
	if !known {
		return nil // readiness says why
	}
	told, kind := "", ""
	for _, limit := range slices.Sorted(slices.Values(a.config.Webhook.CADays)) {
		if days <= float64(limit) {
			told, kind = strconv.Itoa(limit), caDaysEvent
			break
		}
	}
	return a.world.Store().Outbox().Tell(ctx, caDaysEvent, told, kind, map[string]string{
		"days": strconv.FormatFloat(max(days, 0), 'f', 1, 64), "at": told,
	})
}
