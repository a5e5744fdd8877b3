package app

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// condition is a collector of what /readyz says in words: whether requests can
// be answered, and what is stopped although they are.
type condition struct{ app *App }

var (
	readyDesc  = prometheus.NewDesc("certvendor_ready", "1 while requests can be answered, as on /readyz.", nil, nil)
	frozenDesc = prometheus.NewDesc("certvendor_frozen", "1 while it is frozen, by a person or by the circuit breaker.", []string{"what"}, nil)
	clockDesc  = prometheus.NewDesc("certvendor_clock_trusted", "1 while removals may go by the clock.", nil, nil)
	copiedDesc = prometheus.NewDesc("certvendor_audit_copied", "1 while the audit is copied to its files.", nil, nil)
)

func (c condition) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{readyDesc, frozenDesc, clockDesc, copiedDesc} {
		descs <- d
	}
}

func (c condition) Collect(found chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTime) // a scrape has no context of its own here
	defer cancel()
	gauge := func(d *prometheus.Desc, so bool, labels ...string) {
		n := 0.0
		if so {
			n = 1
		}
		found <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	gauge(readyDesc, c.app.Ready(ctx) == nil)
	gauge(clockDesc, c.app.clock.Steady() == nil)
	gauge(copiedDesc, c.app.world.Store().Audit().CopyFailure() == nil)
	frozen, err := c.app.backend.Brakes.Frozen(ctx)
	if err != nil {
		found <- prometheus.NewInvalidMetric(frozenDesc, err)
		return
	}
	gauge(frozenDesc, frozen.Vending, "vending")
	gauge(frozenDesc, frozen.Retiring, "retiring")
}
