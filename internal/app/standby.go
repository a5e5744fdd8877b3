package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/control"
)

// takesOver is what an instance says that leads and does not answer devices yet.
const takesOver = "this instance takes over: it will answer in a moment"

// errStoodBy says that the program was told to stop before it led.
var errStoodBy = errors.New("stopped while it stood by")

// standBy returns once this instance leads the store that it shares. Until then
// it answers nobody but those who ask how it is, and says who leads.
func (a *App) standBy(ctx context.Context, config aws.Config) (_ *aws.Shared, err error) {
	shared, err := aws.StandBy(ctx, config)
	if err != nil {
		return nil, err
	}
	a.shared.Store(shared)
	ended, err := a.answerStandingBy(ctx)
	if err == nil {
		a.log.Info().Str("table", config.Sharing.Table).Msg("certvendor stands by")
		a.announce()
		err = shared.Lead(ctx)
	}
	toldToStop := err != nil && ctx.Err() != nil
	if err = errors.Join(err, ended()); err != nil {
		err = errors.Join(err, shared.Close())
		if toldToStop {
			err = errors.Join(errStoodBy, err)
		}
		return nil, err
	}
	a.log.Info().Int64("entry", shared.Entry()).Msg("certvendor leads")
	return shared, nil
}

// standing says in words that this instance does not answer devices; empty if
// it does.
func (a *App) standing() string {
	shared := a.shared.Load()
	switch {
	case shared == nil || a.up.Load():
		return ""
	case shared.Leads():
		return takesOver
	}
	leader := shared.Leader()
	if leader == "" {
		return "this instance stands by, and does not know yet who leads"
	}
	return fmt.Sprintf("this instance stands by, and %s leads: ask that one", leader)
}

// mayLead reports whether no other instance can lead by now.
func (a *App) mayLead() bool {
	shared := a.shared.Load()
	return shared == nil || shared.Leads()
}

// newest returns when the newest event was recorded that the clock is held
// against. That this instance took over is its own, and shows nothing.
func (a *App) newest(ctx context.Context) (time.Time, error) {
	if shared := a.shared.Load(); shared != nil {
		return shared.Newest(), nil
	}
	return a.world.Store().Audit().Newest(ctx)
}

// announce tells whoever has started the program that it is up, once.
func (a *App) announce() {
	if a.ready != nil {
		a.once.Do(func() { a.ready(a) })
	}
}

// answerStandingBy opens what an instance answers on that stands by; ended closes
// it.
func (a *App) answerStandingBy(ctx context.Context) (ended func() error, err error) {
	var parts []func(context.Context) error
	ended = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		var errs []error
		for _, end := range parts {
			errs = append(errs, end(ctx))
		}
		return errors.Join(errs...)
	}
	remote, err := a.remote()
	if err != nil {
		return ended, err
	}
	socket := control.Socket{Path: a.config.Control.Socket, Group: a.config.Control.Group}
	operators, err := control.OpenStandby(ctx, socket, remote, a.standing)
	if err != nil {
		return ended, err
	}
	served := make(chan error, 1)
	go func() { served <- operators.Serve() }()
	parts = append(parts, func(ctx context.Context) error { return errors.Join(operators.Shutdown(ctx), <-served) })
	if a.config.Metrics.Listen == "" {
		return ended, nil
	}
	listener, err := net.Listen("tcp", a.config.Metrics.Listen)
	if err != nil {
		return ended, fmt.Errorf("metrics.listen: %w", err)
	}
	watchers := &http.Server{Handler: a.standbyRoutes(), ReadHeaderTimeout: 5 * time.Second}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_ = watchers.Serve(listener) // until Close: nothing else is to be told
	}()
	parts = append(parts, func(context.Context) error {
		err := watchers.Close()
		<-watched
		return err
	})
	return ended, nil
}

// standbyRoutes are those of metrics, with what is known without a world. That it
// is not ready is no number there: nobody is to be called out for it.
func (a *App) standbyRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, standbyPage(a.shared.Load().Entry()))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive:", a.standing()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, a.standing(), http.StatusServiceUnavailable)
	})
	return mux
}

func standbyPage(entry int64) string {
	return fmt.Sprintf("# TYPE certvendor_leads gauge\ncertvendor_leads 0\n# TYPE certvendor_journal_entry gauge\ncertvendor_journal_entry %d\n", entry)
}
