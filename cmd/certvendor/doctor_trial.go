package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/control"
)

// cleanTime bounds how long taking away may take, also after an interruption.
const cleanTime = 3 * time.Minute

// trial plays a whole rotation with a thing that is made for it and thrown away.
type trial struct {
	*examination
	*app.Trial
	daemon   *control.Client // nil: none answers
	patience time.Duration   // for whatever is waited for
	told     []device.Event
}

// try makes a thing, rotates it, and takes away all that came of it, also when
// it fails or is interrupted.
func (e *examination) try(ctx context.Context, doctor *app.Doctor, daemon *control.Client, patience time.Duration) {
	if err := doctor.MayTry(); err != nil {
		e.say("rotation", app.Unknown, "", "not tried: %v", err)
		return
	}
	t := &trial{examination: e, Trial: doctor.NewTrial(), daemon: daemon, patience: patience}
	defer t.clean(ctx)
	t.answer("a certificate's status, where none is named", t.DefaultStatus(ctx))
	switch {
	case daemon == nil:
		e.say("rotation", app.Unknown, "start the daemon, and run this again", "not tried: no daemon would answer")
		return
	case e.config.Observe:
		e.say("rotation", app.Unknown, "", "not tried: the daemon observes, and answers nobody")
		return
	}
	if err := t.Make(ctx); err != nil {
		e.say("rotation", app.Failed, "it takes leave to make things, certificates and policies; --look makes none", "%v", err)
		return
	}
	job, came := t.job(ctx)
	if !t.rotate(ctx, came) {
		return
	}
	t.again(ctx, job, came)
}

func (t *trial) answer(check string, f app.Finding) {
	f.Check = check
	t.tell(f)
}

// await waits for an execution of the job for as long as patience lasts.
func (t *trial) await(ctx context.Context, is func(app.Execution) bool) (app.Execution, time.Duration, bool) {
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	start := time.Now()
	found, came := t.Await(ctx, is)
	return found, time.Since(start).Round(10 * time.Millisecond), came
}

// join has the daemon give the thing the job.
func (t *trial) join(ctx context.Context) error {
	return single(func(report func(control.Outcome)) error { return t.daemon.Join(ctx, []string{t.Thing}, report) })
}

// single carries out what is for many with one, whose error it returns.
func single(do func(func(control.Outcome)) error) error {
	var refused error
	err := do(func(o control.Outcome) {
		if o.Error != "" {
			refused = errors.New(o.Error)
		}
	})
	return errors.Join(err, refused)
}

// job asks for the job, and waits for it.
func (t *trial) job(ctx context.Context) (app.Execution, bool) {
	const check = "job"
	if err := t.join(ctx); err != nil {
		t.say(check, app.Failed, "certvendor rotation add", "%v", err)
		return app.Execution{}, false
	}
	found, took, came := t.await(ctx, func(app.Execution) bool { return true })
	if !came {
		t.say(check, app.Unknown, "try again with a longer --patience; the daemon may be at its pace, rotation.per_minute",
			"no execution came to the thing within %s", t.patience)
		return found, false
	}
	t.say(check, app.Healthy, "", "an execution came after %s", took)
	return found, true
}

// rotate plays the device.
func (t *trial) rotate(ctx context.Context, hasJob bool) bool {
	const check = "rotation"
	start := time.Now()
	next, err := t.play(ctx, hasJob)
	if err != nil {
		t.say(check, app.Failed, "see the daemon's log for device "+t.Thing, "%v; the device got as far as: %s", err, t.steps())
		return false
	}
	t.say(check, app.Healthy, "", "get, a connection with the new certificate, and ack, in %s", time.Since(start).Round(10*time.Millisecond))
	gone := t.config.Rotation.Grace == 0 && t.config.Rotation.Previous != certificate.Keep && t.config.AWS.Broker.Identity == "rule"
	t.answer("after the rotation", t.Rotated(ctx, next, gone))
	return true
}

// play rotates with the library that devices use, and returns the certificate
// that is in use then.
func (t *trial) play(ctx context.Context, hasJob bool) (certificate.ID, error) {
	dir, err := os.MkdirTemp("", "certvendor-doctor")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	settings, err := t.settings(dir)
	if err != nil {
		return "", err
	}
	if err := device.Provision(dir, t.Certificate, t.Key); err != nil {
		return "", err
	}
	agent, err := device.New(settings)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 4*t.patience)
	defer cancel()
	rotate := agent.Rotate
	if hasJob {
		rotate = agent.RunOnce
	}
	if err := rotate(ctx); err != nil {
		return "", err
	}
	for _, event := range t.told {
		if event.Kind == device.Promoted && event.Err != nil {
			return "", fmt.Errorf("the ack was not taken: %w", event.Err)
		}
	}
	return certificate.IDOf(agent.Current().Certificate[0]), nil
}

// settings are those of a device with one client id, which is all that its
// policy allows.
func (t *trial) settings(dir string) (device.Config, error) {
	b := t.config.AWS.Broker
	settings := device.Config{
		Device: t.Thing, Broker: b.Endpoint, Directory: dir, Topics: t.config.Topics(), TakeOver: true,
		Proof: b.Identity == "direct", Retry: device.Retry{Max: 5 * time.Second, Attempts: 3, Reply: max(t.patience/2, time.Second)},
		Event: func(event device.Event) { t.told = append(t.told, event) },
	}
	_, port, err := net.SplitHostPort(b.Endpoint)
	if err != nil { // without a port it is that of the WebSocket, which devices do not speak
		settings.Broker = net.JoinHostPort(b.Endpoint, "8883")
	}
	settings.ALPN = port == "443"
	if settings.Roots, err = x509.SystemCertPool(); b.CA == "" {
		return settings, err
	}
	roots, err := readCertificates(b.CA)
	if err != nil {
		return settings, fmt.Errorf("aws.broker.ca: %w", err)
	}
	settings.Roots = x509.NewCertPool()
	for _, root := range roots {
		settings.Roots.AddCert(root)
	}
	return settings, nil
}

// steps are those that the device went.
func (t *trial) steps() string {
	var all []string
	for _, event := range t.told {
		text := string(event.Kind)
		if event.Err != nil {
			text += fmt.Sprintf(" (%v)", event.Err)
		}
		all = append(all, text)
	}
	return dash(strings.Join(all, ", "))
}

// again asks what AWS documents nowhere: whether a thing gets the job again that
// it has done, and what becomes of a job when its thing leaves the group.
func (t *trial) again(ctx context.Context, first app.Execution, came bool) {
	const rejoins, leaves = "a thing that joins again", "a thing that leaves"
	if !came {
		t.say(rejoins, app.Unknown, "", "not tried: no first execution came")
		t.say(leaves, app.Unknown, "", "not tried: no execution came")
		return
	}
	ended, _, _ := t.await(ctx, func(e app.Execution) bool { return e.Status != "QUEUED" && e.Status != "IN_PROGRESS" })
	if err := t.join(ctx); err != nil {
		t.say(rejoins, app.Failed, "", "%v", err)
		return
	}
	second, took, came := t.await(ctx, func(e app.Execution) bool {
		return e.Status == "QUEUED" && (e.Job != first.Job || e.Number != first.Number || ended.Status != "")
	})
	if !came {
		t.say(rejoins, app.Failed, "set aws.rerun to delete-execution, and run this again",
			"after %s no other execution came within %s, with aws.rerun %s", dash(ended.Status), t.patience, t.config.AWS.Rerun)
		return
	}
	t.say(rejoins, app.Healthy, "", "after %s another execution came within %s, number %d, with aws.rerun %s",
		dash(ended.Status), took, second.Number, t.config.AWS.Rerun)
	err := single(func(report func(control.Outcome)) error { return t.daemon.Leave(ctx, []string{t.Thing}, report) })
	if err != nil {
		t.say(leaves, app.Failed, "", "%v", err)
		return
	}
	if _, took, came := t.await(ctx, func(e app.Execution) bool { return e.Number == second.Number && e.Status == "REMOVED" }); came {
		t.say(leaves, app.Healthy, "", "its execution, QUEUED, was REMOVED within %s", took)
		return
	}
	t.say(leaves, app.Unknown, "", "its execution was not REMOVED within %s", t.patience)
}

// clean takes everything away. It goes on after an interruption; a second one
// ends it.
func (t *trial) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
	defer cancel()
	left := t.forget(ctx)
	gone, kept := t.Clean(ctx)
	left = append(left, kept...)
	if len(left) == 0 {
		left = t.read(ctx)
	}
	if len(left) > 0 {
		t.say("cleaning up", app.Failed, "take it away in AWS IoT", "left: %s", strings.Join(left, "; "))
		return
	}
	t.say("cleaning up", app.Healthy, "", "all that was made is gone, %s", counted(gone, "resource", "resources"))
}

// forget has the daemon know the thing no more.
func (t *trial) forget(ctx context.Context) []string {
	if t.daemon == nil || t.Certificate == nil {
		return nil
	}
	_, err := t.daemon.RemoveDevice(ctx, t.Thing)
	var refused *control.Error
	if err == nil || errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		return nil
	}
	return []string{fmt.Sprintf("device %s, of the daemon: %v", t.Thing, err)}
}

// read has the daemon see that AWS has the thing's certificates no more, so that
// its store has none of them ACTIVE. What AWS is asked it may answer late.
func (t *trial) read(ctx context.Context) []string {
	if t.daemon == nil || t.Certificate == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(t.patience, time.Second))
	defer cancel()
	for {
		active, err := t.daemon.LookAtThing(ctx, t.Thing)
		if err == nil && len(active) == 0 {
			return nil
		}
		select {
		case <-time.After(lookPause):
			continue
		case <-ctx.Done():
		}
		if err != nil {
			return []string{fmt.Sprintf("certificates of %s in the daemon's store: %v", t.Thing, err)}
		}
		return []string{fmt.Sprintf("ACTIVE in the daemon's store: %v", active)}
	}
}

// lookPause is between two looks of the daemon at what is gone.
const lookPause = 200 * time.Millisecond
