package vending

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Finding is what one rule says.
type Finding struct {
	Rule        string          // its name, one word
	Certificate certificate.ID  // of the connection, where the rule looks at that
	Refusal     protocol.Reason // with which it refuses; empty: it lets a request pass
	Says        string
}

// Explanation is what would become of a device's requests now, and which rules
// say so.
type Explanation struct {
	Device      registry.DeviceID
	Findings    []Finding // in the order in which the rules are asked
	Answers     []Answer  // to each request that the device could make
	Retirements []Outlook // those that are not done
}

// Explain says what a get, an ack, or with no action either, of a device would
// meet now over each certificate that it holds. It changes nothing. Every rule
// is asked by the function that Get and Ack ask; the answers are rehearsed.
func (v *Vendor) Explain(ctx context.Context, id registry.DeviceID, action protocol.Action) (Explanation, error) {
	a := admission{Caller: Caller{Device: id}, profile: v.config.Profiles[0]}
	if err := v.look(ctx, &a); err != nil {
		return Explanation{}, fmt.Errorf("explain %s: %w", id, err)
	}
	e := Explanation{Device: id}
	if action != protocol.Ack {
		e.Findings = append(e.Findings, v.findLimits(id))
	}
	if action == "" && v.Joins != nil {
		e.Findings = append(e.Findings, v.findGroup(ctx, id))
	}
	e.Findings = append(e.Findings, v.findAdmission(ctx, a)...)
	if action != protocol.Ack {
		e.Findings = append(e.Findings, v.findFreeze(ctx))
	}
	e.Findings = append(e.Findings, v.findApproval(ctx, a, action)...)
	e.Findings = append(e.Findings, v.findRotation(ctx, a))
	if action != protocol.Ack {
		e.Findings = append(e.Findings, v.findIssue(ctx, a)...)
	}
	if action != protocol.Get {
		e.Findings = append(e.Findings, v.findAck())
	}
	for _, caller := range callers(a) {
		e.Answers = append(e.Answers, v.answers(ctx, a, caller, action)...)
	}
	var err error
	e.Retirements, err = v.Outlooks(ctx, id)
	return e, err
}

// finding is what a rule says that passes with these words, or else refuses
// with an error.
func finding(rule string, err error, format string, args ...any) Finding {
	if err == nil {
		return Finding{Rule: rule, Says: fmt.Sprintf(format, args...)}
	}
	e := asError(err)
	return Finding{Rule: rule, Refusal: e.Reason, Says: e.Words()}
}

// Words says for the operator, and for nobody else, why something is refused.
func (e *Error) Words() string {
	var all []string
	if e.Detail != "" {
		all = append(all, e.Detail)
	}
	if e.Err != nil {
		all = append(all, e.Err.Error())
	}
	if e.Wait > 0 {
		all = append(all, "to be tried again after "+e.Wait.Round(time.Second).String())
	}
	if len(all) == 0 {
		return string(e.Reason)
	}
	return strings.Join(all, "; ")
}

func (v *Vendor) findLimits(id registry.DeviceID) Finding {
	wait, ok := v.Limits.Peek(id)
	if !ok {
		return finding("limits", &Error{Reason: protocol.TooManyRequests, Detail: "too many gets lately", Wait: wait}, "")
	}
	return finding("limits", nil, "one more get is within limits.per_device")
}

// findGroup says whether the device can be given its job, which is not needed
// for a get or an ack.
func (v *Vendor) findGroup(ctx context.Context, id registry.DeviceID) Finding {
	if err := v.Joins(ctx, id); err != nil {
		return Finding{Rule: "group", Says: "it cannot be given a job, a get of its own accord is no matter: " + err.Error()}
	}
	return Finding{Rule: "group", Says: "it can be given a job"}
}

// findAdmission asks the rules that both requests begin with.
func (v *Vendor) findAdmission(ctx context.Context, a admission) []Finding {
	device, err := v.registered(ctx, a.Device)
	all := []Finding{finding("registry", err, "known since %s", until(device.Added))}
	if errors.Is(err, registry.ErrUnknown) {
		all[0].Says = fmt.Sprintf("not in the registry: `certvendor device add %s --out DIR` enters it", a.Device)
	}
	if err == nil {
		all = append(all, finding("blocked", notBlocked(device), "not blocked"))
	}
	if len(a.held) == 0 {
		all = append(all, Finding{Rule: "binding", Says: "the device holds no certificate"})
	}
	for _, caller := range callers(a) {
		if h, ok := certificate.Find(a.held, caller.Certificate); ok {
			over := a
			over.Caller = caller
			f := finding("binding", v.bind(over), "the device's, %s", h.Standing)
			f.Certificate, f.Says = h.ID, f.Says+"; "+v.describe(h)
			all = append(all, f)
		}
	}
	return all
}

// describe says of a certificate what the rules about its binding do not ask.
func (v *Vendor) describe(h certificate.Holding) string {
	ends := "expires " + until(h.NotAfter)
	if !v.Now().Before(h.NotAfter) {
		ends = "expired " + until(h.NotAfter) + ", which only the broker asks"
	}
	switch {
	case h.LastSeen.IsZero():
		return ends + ", never seen"
	case h.Connected:
		return ends + ", connected"
	}
	return ends + ", last seen " + until(h.LastSeen)
}

func (v *Vendor) findFreeze(ctx context.Context) Finding {
	err := v.notFrozen(ctx)
	var refusal *Error
	if errors.As(err, &refusal) && refusal.Err == nil {
		refusal.Detail = "vending is frozen; `certvendor thaw vending` lets it go on"
	}
	return finding("freeze", err, "vending is not frozen")
}

// findRotation says what is open, which decides what a get or an ack means.
func (v *Vendor) findRotation(ctx context.Context, a admission) Finding {
	dry := v.stage(a.Device).vendor("")
	_, err := dry.awaitLease(ctx, a, func(rotation.Rotation) bool { return true })
	r := a.history.Current()
	if r == nil {
		text := "none is open"
		if last := a.history.LastFinished(); last != nil {
			text += fmt.Sprintf("; the last, %d, was finished %s with certificate %s", last.Number, until(last.ClosedAt), short(last.Certificate))
		}
		return finding("rotation", err, "%s", text)
	}
	text := fmt.Sprintf("%d is %s since %s", r.Number, r.State, until(latestOf(*r)))
	if r.Certificate != "" {
		text += ", with certificate " + short(r.Certificate)
	}
	if r.Over != "" {
		text += ", asked for over " + short(r.Over)
	}
	return finding("rotation", err, "%s", text)
}

// latestOf returns when a rotation reached the state it is in.
func latestOf(r rotation.Rotation) time.Time {
	latest := r.Opened
	for _, at := range []time.Time{r.VendedAt, r.AckedAt, r.ProvenAt, r.ClosedAt} {
		if at.After(latest) {
			latest = at
		}
	}
	return latest
}

// findIssue asks the rules that only a get meets.
func (v *Vendor) findIssue(ctx context.Context, a admission) []Finding {
	all := []Finding{
		finding("keys", v.mayBringKey(a), "%d of %d new keys within %s are left", v.newKeysLeft(a), v.config.NewKeys, v.config.NewKeysPer),
	}
	for _, caller := range callers(a) {
		names, err := v.policies(ctx, a, "", caller.Certificate)
		f := finding("policy", err, "a new certificate gets %s", listed(names))
		f.Certificate = caller.Certificate
		all = append(all, f)
	}
	if v.Signs != nil {
		end, err := v.Signs(ctx)
		if err != nil {
			err = refuseIssue(err)
		}
		asked := v.Now().Add(a.profile.Validity)
		text := "signs until " + until(end)
		if end.Before(asked) {
			text += ", before which new certificates end too"
		}
		all = append(all, finding("ca", err, "%s", text))
	}
	c, err := v.findPackage(ctx, a)
	return append(all, finding("package", err, "that of certificate %s waits for the device", short(c.ID)))
}

func listed(names []string) string {
	if len(names) == 0 {
		return "no policy"
	}
	return strings.Join(names, " ")
}

func (v *Vendor) findAck() Finding {
	if v.config.RejectUnproven {
		return finding("proof", nil, "where nobody sees which certificate speaks, an ack needs a proof")
	}
	return finding("proof", nil, "where nobody sees which certificate speaks, an ack without a proof is taken, and removes nothing")
}

// callers are the device over each certificate that it holds; one of whom
// nothing is known where it holds none.
func callers(a admission) []Caller {
	if len(a.held) == 0 {
		return []Caller{{Device: a.Device}}
	}
	var all []Caller
	for _, h := range a.held {
		all = append(all, CallerOver(h))
	}
	return all
}

// CallerOver is a device that speaks over a certificate that it holds.
func CallerOver(h certificate.Holding) Caller {
	c := Caller{Device: h.Device, Certificate: h.ID, Evidence: certificate.Connection}
	if parsed, err := h.X509(); err == nil {
		c.CommonName = parsed.Subject.CommonName
	}
	return c
}

// answers rehearses what a device could ask over one certificate.
func (v *Vendor) answers(ctx context.Context, a admission, caller Caller, action protocol.Action) []Answer {
	var all []Answer
	if action != protocol.Ack {
		if r := a.history.Current(); r != nil && !r.ByPackage {
			all = append(all, v.Rehearse(ctx, Question{Caller: caller, Action: protocol.Get, Key: r.Key}))
		}
		all = append(all, v.Rehearse(ctx, Question{Caller: caller, Action: protocol.Get}))
		all = append(all, v.Rehearse(ctx, Question{Caller: caller, Action: protocol.Get, Package: true}))
	}
	if action != protocol.Get {
		all = append(all, v.Rehearse(ctx, Question{Caller: caller, Action: protocol.Ack}))
	}
	return all
}
