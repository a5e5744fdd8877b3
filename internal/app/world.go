package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/standalone"
	"github.com/certvendor/certvendor/internal/store"
)

// world is what every world does for the program. What only one of them has is
// asked of that one.
type world interface {
	Backend() backend.Backend
	Store() *store.Store
	// Start lets devices in; Drain lets no more in and requests finish; Close
	// ends everything.
	Start(context.Context) error
	Drain(context.Context) error
	Close() error
	// Failed yields an error if a part of the world dies.
	Failed() <-chan error
	// Poke has the world look at once whether somebody may have a job.
	Poke()
	// Restored returns when the world was restored from a backup, or the zero
	// time.
	Restored() time.Time
	// Backup writes a backup of all that is kept here, while it goes on; without
	// keys, nothing private is in it.
	Backup(ctx context.Context, version string, keys bool, w io.Writer) error
}

// What the world of AWS has no use for.
var (
	errNoCRL    = errors.New("backend aws makes no CRL: what is revoked is REVOKED in AWS IoT, which looks at no CRL")
	errNoOwnCA  = errors.New("backend aws has no CA of its own: aws.issuer says what signs")
	errNoBucket = errors.New("there is no place for packages: aws.packages.bucket names none")
)

// instanceName returns who we are, in leases and in the audit.
func instanceName() (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("the host's name: %w", err)
	}
	return fmt.Sprintf("%s/%d", host, os.Getpid()), nil
}

// openWorld opens the world of the configuration.
func (a *App) openWorld(ctx context.Context, instance string) (err error) {
	committed := func(took time.Duration, _ int) { a.metrics.commit.Observe(took.Seconds()) }
	if a.config.Backend == config.AWSBackend {
		if a.cloud, err = a.openAWS(ctx, instance, committed); err != nil {
			return err
		}
		a.world = a.cloud
		return nil
	}
	own, err := worldConfig(a.config, a.log, a.now)
	if err != nil {
		return err
	}
	own.Committed, own.Tells, own.Observes = committed, a.config.Webhook.Tells, a.config.Observe
	if a.alone, err = standalone.Open(ctx, own); err != nil {
		return err
	}
	a.world = a.alone
	return nil
}

// worldReady says what keeps the world from answering requests.
func (a *App) worldReady() error {
	if a.alone == nil {
		if err := a.cloud.Ready(); err != nil {
			return fmt.Errorf("the broker is not reached: %w", err)
		}
		return nil
	}
	if days, _ := a.alone.CA().DaysLeft(); days <= 0 {
		return errors.New("the issuing CA has expired")
	}
	return nil
}

// caDays returns how many days what signs is still valid, where that is known.
func (a *App) caDays(ctx context.Context) (days float64, known bool) {
	if a.alone != nil {
		days, _ = a.alone.CA().DaysLeft()
		return days, true
	}
	if a.backend.Signs == nil {
		return 0, false
	}
	until, err := a.backend.Signs(ctx)
	return until.Sub(a.now()).Hours() / 24, err == nil && !until.IsZero()
}

// measureWorld adds the numbers that only this world has.
func (a *App) measureWorld() {
	m := a.metrics
	if a.alone == nil {
		m.registry.MustRegister(awsCalls{a.cloud}, awsBus{a.bus})
		if shared := a.shared.Load(); shared != nil {
			m.gauge("certvendor_leads", "1 of the instance that leads, 0 of those that stand by.", func() float64 {
				if shared.Leads() {
					return 1
				}
				return 0 // it is about to end
			})
			m.gauge("certvendor_journal_entry", "The last commit that this instance's copy of the store has.",
				func() float64 { return float64(shared.Entry()) })
		}
		return
	}
	m.gauge("certvendor_connections", "Open connections of devices.",
		func() float64 { return float64(a.alone.Broker().Connections()) })
	m.gauge("certvendor_ca_days_left", "Days until the issuing CA, or one above it, expires.",
		func() float64 { days, _ := a.alone.CA().DaysLeft(); return days })
	m.gauge("certvendor_server_certificate_days_left", "Days until the listeners' certificate expires.",
		func() float64 { _, days := a.alone.CA().DaysLeft(); return days })
	m.registry.MustRegister(broker{a.alone.Broker()})
}

// roots returns what devices verify the broker by: on AWS they know that from
// the factory.
func (a *App) roots() []byte {
	if a.alone == nil {
		return nil
	}
	return a.alone.CA().ServerRoots()
}

// serverCertificate is what operators see who come over TCP, where no
// certificate is configured.
func (a *App) serverCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if a.alone == nil {
		return nil, errNoOwnCA
	}
	return a.alone.CA().GetCertificate(hello)
}
