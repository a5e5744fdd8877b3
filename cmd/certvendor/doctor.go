package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
)

// examination is a run of doctor.
type examination struct {
	cli      *cli
	config   config.Config
	findings []app.Finding
	bar      *progress
}

// diagnosis is what `doctor --json` prints.
type diagnosis struct {
	OK       bool          `json:"ok"`
	Findings []app.Finding `json:"findings"`
}

func (c *cli) doctor() *cobra.Command {
	var thing string
	var look bool
	patience := 30 * time.Second
	cmd := &cobra.Command{
		Use: "doctor [--look | --thing NAME]", Short: "Say whether everything is as the program needs it, and what to do where it is not",
		Args: cobra.NoArgs,
		Long: `Say whether everything is as the program needs it, and what to do where it is not.

On backend aws it looks at the account: credentials, clock, endpoint and broker, the CA and
what signs, packages, what the daemon may read, and what setup makes. Then it makes a thing
of its own, has the running daemon rotate its certificate, as a device would, and asks what
AWS documents nowhere. It takes away all that it has made, also when it is interrupted, and
says what it could not take away. --look leaves all this out. With --thing it looks at one
thing instead, and at what a get of it would meet, and changes nothing.

A check ends with ok, failed, or unknown, which is what was not shown either way. It ends
with 1 if something has failed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if look && thing != "" {
				return errors.New("doctor: give either --look or --thing")
			}
			cfg, err := c.load()
			if err != nil {
				return err
			}
			e := &examination{cli: c, config: cfg, bar: newProgress(c.errs, "doctor", 0)}
			failed := e.run(cmd.Context(), thing, look, patience)
			if len(e.findings) > 0 { // also of a run that was interrupted
				err = e.end()
			}
			if failed != nil {
				return fmt.Errorf("doctor: %w", failed)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&thing, "thing", "", "look at this thing only; changes nothing")
	cmd.Flags().BoolVar(&look, "look", false, "try no rotation; changes nothing")
	cmd.Flags().Var((*span)(&patience), "patience", "how long to wait for each thing that AWS or the daemon is to do")
	return cmd
}

func (e *examination) run(ctx context.Context, thing string, look bool, patience time.Duration) error {
	if e.config.Backend != config.AWSBackend {
		if thing != "" {
			return errors.New("--thing is for backend aws: see explain and device show")
		}
		e.alone(ctx)
		return ctx.Err()
	}
	doctor, err := app.OpenDoctor(ctx, e.config)
	if err != nil {
		return err
	}
	if thing != "" {
		doctor.ExamineThing(ctx, thing, e.tell)
		e.explained(ctx, thing)
		return ctx.Err()
	}
	e.surroundings()
	doctor.Examine(ctx, e.tell)
	daemon := e.daemon(ctx)
	if daemon != nil {
		defer daemon.Close()
	}
	if !look && !e.failed("credentials") && ctx.Err() == nil {
		e.try(ctx, doctor, daemon, patience)
	}
	return ctx.Err()
}

func (e *examination) tell(f app.Finding) {
	e.findings = append(e.findings, f)
	e.bar.at(len(e.findings))
}

func (e *examination) say(check string, verdict app.Verdict, do, format string, args ...any) {
	e.tell(app.Finding{Check: check, Verdict: verdict, Found: fmt.Sprintf(format, args...), Do: do})
}

// failed reports whether a check has failed.
func (e *examination) failed(check string) bool {
	return slices.ContainsFunc(e.findings, func(f app.Finding) bool { return f.Check == check && f.Verdict == app.Failed })
}

// end prints what was found.
func (e *examination) end() error {
	e.bar.clear()
	found := diagnosis{OK: true, Findings: e.findings}
	for _, f := range e.findings {
		found.OK = found.OK && f.Verdict != app.Failed
	}
	err := e.cli.print(found, func(w io.Writer) {
		table(w, "CHECK VERDICT FOUND", withAdvice(e.findings), func(f app.Finding) []string {
			return []string{f.Check, string(f.Verdict), oneLine(errors.New(f.Found))}
		})
	})
	if err == nil && !found.OK {
		err = errReported
	}
	return err
}

// withAdvice puts what to do on a line of its own.
func withAdvice(findings []app.Finding) []app.Finding {
	var all []app.Finding
	for _, f := range findings {
		all = append(all, f)
		if f.Do != "" {
			all = append(all, app.Finding{Found: "-> " + f.Do})
		}
	}
	return all
}

// surroundings are the files and secrets that the configuration names.
func (e *examination) surroundings() {
	there := checkSurroundings(e.config)
	for _, err := range there.problems {
		e.say("configuration", app.Failed, "certvendor config check", "%v", err)
	}
	for _, err := range there.untold {
		e.say("configuration", app.Unknown, "", "%v", err)
	}
	if len(there.problems)+len(there.untold) == 0 {
		e.say("configuration", app.Healthy, "", "%s is sound", e.cli.config)
	}
}

// daemon asks the daemon whether it can answer devices. One that does not run is
// no failure: it may be a task of later. It returns nil where none answers.
func (e *examination) daemon(ctx context.Context) *control.Client {
	daemon, err := e.cli.dial()
	if err != nil {
		e.say("daemon", app.Unknown, "", "%v", err)
		return nil
	}
	var refused *control.Error
	switch err := daemon.Ready(ctx); {
	case err == nil:
		e.say("daemon", app.Healthy, "", "it runs, and is ready")
	case errors.As(err, &refused):
		e.say("daemon", app.Failed, "see its log", "it runs: %v", err)
	default:
		e.say("daemon", app.Unknown, "see to that, and run this again", "%v", err)
		daemon.Close()
		return nil
	}
	return daemon
}

// explained asks the daemon what a get of the device would meet. Over a certificate
// that is not ACTIVE none comes.
func (e *examination) explained(ctx context.Context, name string) {
	daemon := e.daemon(ctx)
	if daemon == nil {
		e.say("get", app.Unknown, "start the daemon, and run this again", "the daemon alone knows its journal, limits and brakes")
		return
	}
	defer daemon.Close()
	found, err := daemon.Explain(ctx, name, protocol.Get)
	if err != nil {
		e.say("get", app.Failed, "", "%v", err)
		return
	}
	standingOf := standingsOf(ctx, daemon, name)
	said := false
	for _, a := range found.Answers {
		if standing, ok := standingOf[a.Over]; ok && standing != certificate.Active {
			continue
		}
		said = true
		check := "get, " + a.With
		if a.Over != "" {
			check += ", over " + short(a.Over)
		}
		switch {
		case a.Accepted:
			e.say(check, app.Healthy, "", "would be accepted")
		case a.With == "package" && a.Reason == protocol.NoPackage:
			e.say(check, app.Healthy, "", "no package waits for it, which a device that makes its keys does not need")
		default:
			e.say(check, app.Failed, "certvendor explain "+name+" says which rule", "would be answered %s: %s", a.Reason, a.Says)
		}
	}
	if !said {
		e.say("get", app.Failed, "certvendor device add "+name+" --out DIR --another", "none of its certificates is ACTIVE")
	}
}

// standingsOf returns those of a device's certificates, none of one that the daemon does
// not know.
func standingsOf(ctx context.Context, daemon *control.Client, name string) map[certificate.ID]certificate.Standing {
	all := map[certificate.ID]certificate.Standing{}
	d, err := daemon.Device(ctx, name)
	if err != nil {
		return all // its gets are refused, which says why
	}
	for _, c := range d.Certificates {
		all[c.ID] = c.Standing
	}
	return all
}

// alone looks at a world of this machine, as far as its daemon tells.
func (e *examination) alone(ctx context.Context) {
	e.surroundings()
	daemon := e.daemon(ctx)
	if daemon == nil {
		return
	}
	defer daemon.Close()
	e.cas(ctx, daemon)
	stuck := 0
	for _, err := range daemon.Stuck(ctx) {
		if err != nil {
			e.say("rotations", app.Failed, "", "%v", err)
			return
		}
		stuck++
	}
	if stuck > 0 {
		e.say("rotations", app.Unknown, "certvendor rotation list --stuck says why each is", "%d do not go on by themselves", stuck)
		return
	}
	e.say("rotations", app.Healthy, "", "none is stuck")
}

// caSoon is how long before its end a CA is to be replaced.
const caSoon = 180 * 24 * time.Hour

func (e *examination) cas(ctx context.Context, daemon *control.Client) {
	all, _, err := daemon.CAs(ctx)
	if err != nil {
		e.say("ca", app.Failed, "", "%v", err)
		return
	}
	for _, ca := range all {
		check, left := "ca: "+ca.Role, time.Until(ca.NotAfter)
		switch {
		case !ca.Retired.IsZero():
			continue
		case left <= 0:
			e.say(check, app.Failed, "docs/operations.md, the CA", "%s has expired on %s", ca.Subject, when(ca.NotAfter))
		case ca.Role == "issuing" && left < min(caSoon, e.config.Vending.Validity):
			e.say(check, app.Failed, "certvendor ca rotate", "%s ends on %s, and certificates with it", ca.Subject, when(ca.NotAfter))
		default:
			e.say(check, app.Healthy, "", "%s, until %s", ca.Subject, when(ca.NotAfter))
		}
	}
}
