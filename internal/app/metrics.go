package app

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/certvendor/certvendor/internal/standalone"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// metrics is what /metrics shows. No label ever holds a device's name.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	observed *prometheus.CounterVec
	issue    prometheus.Histogram
	commit   prometheus.Histogram
	sweeps   *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certvendor_requests_total", Help: "Requests answered, by action, verdict and reason.",
		}, []string{"action", "verdict", "reason"}),
		observed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certvendor_observed_total", Help: "Requests that were observed and not answered, by action, and by the verdict and reason they would have had.",
		}, []string{"action", "verdict", "reason"}),
		issue: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "certvendor_issue_seconds", Help: "Time from a get to its accepting reply.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "certvendor_store_commit_seconds", Help: "Time of a durable commit of the store.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15),
		}),
		sweeps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "certvendor_sweeps_total", Help: "Sweeps, by outcome.",
		}, []string{"outcome"}),
	}
	m.registry.MustRegister(m.requests, m.observed, m.issue, m.commit, m.sweeps,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// served counts a request.
func (m *metrics) served(o vending.Outcome) {
	verdict := "rejected"
	if o.Accepted {
		verdict = "accepted"
		if o.Action == "get" {
			m.issue.Observe(o.Took.Seconds())
		}
	}
	m.requests.WithLabelValues(string(o.Action), verdict, string(o.Reason)).Inc()
}

// gauge adds a number that is read when it is asked for.
func (m *metrics) gauge(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
}

// rotations is a collector that asks the journal for its totals once a scrape.
type rotations struct {
	catalogue rotation.Catalogue
	members   func(context.Context) (members, waiting int, err error)
}

var (
	rotationsDesc = prometheus.NewDesc("certvendor_rotations", "Rotations by state.", []string{"state"}, nil)
	pendingDesc   = prometheus.NewDesc("certvendor_retirements_pending", "Retirements that are not done.", nil, nil)
	stuckDesc     = prometheus.NewDesc("certvendor_retirements_stuck", "Retirements that are due and not done.", nil, nil)
	orphansDesc   = prometheus.NewDesc("certvendor_orphans", "Active certificates that no device holds.", nil, nil)
	membersDesc   = prometheus.NewDesc("certvendor_group_members", "Devices in the rotation group.", nil, nil)
	waitingDesc   = prometheus.NewDesc("certvendor_group_waiting", "Members whose job has not been given out yet.", nil, nil)
)

// collectTime bounds how long a scrape waits for the store.
const collectTime = 5 * time.Second

func (r rotations) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{rotationsDesc, pendingDesc, stuckDesc, orphansDesc, membersDesc, waitingDesc} {
		descs <- d
	}
}

func (r rotations) Collect(found chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTime) // a scrape has no context of its own here
	defer cancel()
	counts, err := r.catalogue.Counts(ctx)
	if err != nil {
		found <- prometheus.NewInvalidMetric(rotationsDesc, err)
		return
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		found <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	for _, state := range []rotation.State{
		rotation.Intended, rotation.Issued, rotation.Vended, rotation.Acknowledged, rotation.Proven,
		rotation.Finished, rotation.Stale, rotation.Superseded, rotation.Abandoned,
	} {
		gauge(rotationsDesc, counts.States[state], string(state))
	}
	gauge(pendingDesc, counts.Retirements)
	gauge(stuckDesc, counts.Stuck)
	gauge(orphansDesc, counts.Orphans)
	members, waiting, err := r.members(ctx)
	if err != nil {
		found <- prometheus.NewInvalidMetric(membersDesc, err)
		return
	}
	gauge(membersDesc, members)
	gauge(waitingDesc, waiting)
}

// broker is a collector of the broker's counts.
type broker struct {
	from interface{ Stats() standalone.BrokerStats }
}

var (
	refusedDesc = prometheus.NewDesc("certvendor_broker_refused_total", "Refused by the broker, by why.", []string{"why"}, nil)
	droppedDesc = prometheus.NewDesc("certvendor_broker_dropped_total", "Messages that a connection was too slow for.", nil, nil)
	acceptDesc  = prometheus.NewDesc("certvendor_broker_accept_errors_total", "Connections that could not be accepted.", nil, nil)
)

func (b broker) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{refusedDesc, droppedDesc, acceptDesc} {
		descs <- d
	}
}

func (b broker) Collect(found chan<- prometheus.Metric) {
	stats := b.from.Stats()
	counter := func(d *prometheus.Desc, n int64, labels ...string) {
		found <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for why, n := range stats.Refused {
		counter(refusedDesc, n, string(why))
	}
	counter(droppedDesc, stats.Dropped+stats.Unacked)
	counter(acceptDesc, stats.AcceptErrors)
}

// state is what the health routes ask.
type state interface {
	Ready(context.Context) error
	Restrained(context.Context) string
}

// routes serves /metrics, /healthz (the process lives) and /readyz (it can do
// its work; if not, the body says why). What is merely stopped on purpose or
// for safety, while requests are answered, stands in the body of a ready one.
func (m *metrics) routes(app state) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, // what cannot be read hides nothing else, and least that we are not ready
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := app.Ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
		if what := app.Restrained(r.Context()); what != "" {
			fmt.Fprintln(w, what)
		}
	})
	return mux
}
