package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/certvendor/certvendor/internal/aws"
)

// awsBus is a collector of what happens to messages on their way.
type awsBus struct{ from *aws.MQTTBus }

var (
	busDroppedDesc     = prometheus.NewDesc("certvendor_bus_dropped_total", "Envelopes that were not taken, by what was wrong with them.", []string{"why"}, nil)
	busLeftDesc        = prometheus.NewDesc("certvendor_bus_left_total", "Requests left with the broker, to come again.", nil, nil)
	busUnpublishedDesc = prometheus.NewDesc("certvendor_bus_unpublished_total", "Replies that the broker did not take in time.", nil, nil)
	busLostDesc        = prometheus.NewDesc("certvendor_bus_lost_total", "Connections to the broker that were lost.", nil, nil)
	busFailedDesc      = prometheus.NewDesc("certvendor_bus_failed_total", "Attempts to connect to the broker that failed.", nil, nil)
	busPresenceDesc    = prometheus.NewDesc("certvendor_bus_presence_total", "Events of clients that connected: a device's (used), none of ours (stranger), one too many (overrun).", []string{"as"}, nil)
	busExecutionsDesc  = prometheus.NewDesc("certvendor_bus_executions_total", "Events of executions of the job that have ended.", nil, nil)
)

func (b awsBus) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{busDroppedDesc, busLeftDesc, busUnpublishedDesc, busLostDesc, busFailedDesc, busPresenceDesc, busExecutionsDesc} {
		descs <- d
	}
}

func (b awsBus) Collect(found chan<- prometheus.Metric) {
	stats := b.from.Stats()
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		found <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, why := range aws.Drops() {
		count(busDroppedDesc, stats.Dropped[why], string(why))
	}
	count(busLeftDesc, stats.Left)
	count(busUnpublishedDesc, stats.Unpublished)
	count(busLostDesc, stats.Lost)
	count(busFailedDesc, stats.Failed)
	count(busPresenceDesc, stats.Presence, "used")
	count(busPresenceDesc, stats.Strangers, "stranger")
	count(busPresenceDesc, stats.Overrun, "overrun")
	count(busExecutionsDesc, stats.Executions)
}
