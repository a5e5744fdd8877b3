package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/certvendor/certvendor/internal/aws"
)

// NewAt and InitCAAt are New and InitCA with a clock that can be set.
var (
	NewAt    = newAt
	InitCAAt = initCAAt
)

// AcceptErrors returns how many connections could not be accepted.
func (a *App) AcceptErrors() int64 { return a.alone.Broker().Stats().AcceptErrors }

// Connections returns how many devices are connected, and Dropped how many
// messages were too many for one of them.
func (a *App) Connections() int { return a.alone.Broker().Connections() }

// Dropped: see Connections.
func (a *App) Dropped() int64 {
	stats := a.alone.Broker().Stats()
	return stats.Dropped + stats.Unacked
}

// Headroom is what Run keeps.
var Headroom = headroom

// BusMetrics are what a daemon on AWS tells of its bus.
func BusMetrics(bus *aws.MQTTBus) prometheus.Collector { return awsBus{bus} }

// StandbyPage is what /metrics of an instance says that stands by.
var StandbyPage = standbyPage
