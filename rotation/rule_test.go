package rotation

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// holding returns an ACTIVE certificate, seen so long ago; a negative time
// means never.
func holding(id certificate.ID, seenAgo time.Duration) certificate.Holding {
	h := certificate.Holding{
		Certificate: certificate.Certificate{ID: id, Standing: certificate.Active, NotAfter: noon.Add(8760 * time.Hour)},
		Device:      "d",
	}
	if seenAgo >= 0 {
		h.LastSeen = noon.Add(-seenAgo)
	}
	return h
}

func pad(id string) certificate.ID {
	return certificate.ID(id + strings.Repeat("0", 64-len(id)))
}

func proven(number int64, id certificate.ID) Rotation {
	return Rotation{Number: number, State: Finished, Certificate: id, ProvenAt: noon.Add(-time.Hour)}
}

func vended(number int64, id certificate.ID) Rotation {
	return Rotation{Number: number, State: Vended, Certificate: id}
}

const never = time.Duration(-1)

// TestOneRule goes through every branch of the one rule. The device came from
// a, and rotation 1 vended b, rotation 2 c.
func TestOneRule(t *testing.T) {
	a, b, c := pad("a"), pad("b"), pad("c")
	history := History{Rotations: []Rotation{proven(1, b)}}
	both := History{Rotations: []Rotation{proven(2, c), {Number: 1, State: Superseded, Certificate: b}}}
	with := func(h certificate.Holding, change func(*certificate.Holding)) certificate.Holding {
		change(&h)
		return h
	}
	for _, test := range []struct {
		name     string
		facts    Facts
		why      string // part of it; empty: the removal is allowed
		reverted bool
	}{
		{"seen last on the proven successor",
			Facts{Held: []certificate.Holding{holding(a, time.Hour), holding(b, time.Minute)}, History: history}, "", false},
		{"seen last on the proven successor, before a restore",
			Facts{Held: []certificate.Holding{holding(a, time.Hour), holding(b, 2*time.Minute)}, History: history,
				SeenSince: noon.Add(-time.Minute)}, "not seen since", false},
		{"seen last on the proven successor, since a restore",
			Facts{Held: []certificate.Holding{holding(a, time.Hour), holding(b, time.Minute)}, History: history,
				SeenSince: noon.Add(-2 * time.Minute)}, "", false},
		{"never seen on the old one at all",
			Facts{Held: []certificate.Holding{holding(a, never), holding(b, time.Minute)}, History: history}, "", false},
		{"seen last on the old one",
			Facts{Held: []certificate.Holding{holding(a, time.Minute), holding(b, time.Hour)}, History: history},
			"last seen on this certificate", true},
		{"seen last on the old one although the new one has an open connection",
			Facts{Held: []certificate.Holding{holding(a, time.Minute),
				with(holding(b, time.Hour), func(h *certificate.Holding) { h.Connected = true })}, History: history},
			"last seen on this certificate", true},
		{"never seen on anything",
			Facts{Held: []certificate.Holding{holding(a, never), holding(b, never)}, History: history}, "never seen", false},
		{"the successor is vended and seen but its rotation not proven",
			Facts{Held: []certificate.Holding{holding(a, time.Hour), holding(b, time.Minute)},
				History: History{Rotations: []Rotation{vended(1, b)}}}, "not a proven successor", false},
		{"seen last on something no rotation vended",
			Facts{Held: []certificate.Holding{holding(a, time.Hour), holding(pad("f"), time.Minute), holding(b, time.Hour)},
				History: history}, "not a proven successor", false},
		{"the successor is not active",
			Facts{Held: []certificate.Holding{holding(a, time.Hour),
				with(holding(b, time.Minute), func(h *certificate.Holding) { h.Standing = certificate.Inactive })},
				History: history}, "is INACTIVE", false},
		{"the successor has expired",
			Facts{Held: []certificate.Holding{holding(a, time.Hour),
				with(holding(b, time.Minute), func(h *certificate.Holding) { h.NotAfter = noon.Add(-time.Second) })},
				History: history}, "expires first, and soon", false},
		{"both have expired, and the old one's connection is open still",
			Facts{Held: []certificate.Holding{
				with(holding(a, time.Hour), func(h *certificate.Holding) { h.NotAfter, h.Connected = noon.Add(-2*time.Second), true }),
				with(holding(b, time.Minute), func(h *certificate.Holding) { h.NotAfter = noon.Add(-time.Second) })},
				History: history}, "has expired", false},
		{"the sighting on the successor is too old",
			Facts{Held: []certificate.Holding{holding(a, 50*time.Hour), holding(b, 25*time.Hour)}, History: history},
			"longer ago than rotation.recent", false},
		{"the sighting is old but its connection still open",
			Facts{Held: []certificate.Holding{holding(a, 50*time.Hour),
				with(holding(b, 25*time.Hour), func(h *certificate.Holding) { h.Connected = true })}, History: history}, "", false},
		{"the sighting lies in the future, by a clock that was wrong",
			Facts{Held: []certificate.Holding{holding(a, time.Hour), holding(b, 0)}, History: history,
				Now: noon.Add(-time.Hour)}, "by a clock that was wrong", false},
		{"a superseded one, seen last on the proven one after it",
			Facts{Retirement: Retirement{Certificate: b, Rotation: 2},
				Held: []certificate.Holding{holding(b, never), holding(c, time.Minute)}, History: both}, "", false},
		{"a superseded one that the device is on",
			Facts{Retirement: Retirement{Certificate: b, Rotation: 2},
				Held: []certificate.Holding{holding(b, time.Minute), holding(c, time.Hour)}, History: both},
			"last seen on this certificate", true},
		{"seen last on a later one than the proven successor",
			Facts{Held: []certificate.Holding{holding(a, time.Hour), holding(b, time.Hour), holding(c, time.Minute)},
				History: History{Rotations: []Rotation{vended(2, c), proven(1, b)}}}, "", false},
		{"the proven one is later than the one the device is on",
			Facts{Held: []certificate.Holding{holding(a, time.Hour), holding(b, time.Minute), holding(c, time.Hour)},
				History: both}, "not a proven successor", false},
		{"a successor is never retired by its own proof",
			Facts{Retirement: Retirement{Certificate: b, Rotation: 2}, Held: []certificate.Holding{holding(a, time.Hour), holding(b, time.Minute)},
				History: history}, "last seen on this certificate", true},
		{"expired, with the device last seen on it",
			Facts{Held: []certificate.Holding{with(holding(a, time.Minute), func(h *certificate.Holding) { h.NotAfter = noon }),
				holding(b, never)}, History: history}, "last seen on this certificate", true},
		{"expired, and never seen on anything",
			Facts{Held: []certificate.Holding{with(holding(a, never), func(h *certificate.Holding) { h.NotAfter = noon }),
				holding(b, never)}, History: history}, "", false},
		{"expired, with the device last seen on something unproven",
			Facts{Held: []certificate.Holding{with(holding(a, time.Hour), func(h *certificate.Holding) { h.NotAfter = noon }),
				holding(b, time.Minute)}, History: History{Rotations: []Rotation{vended(1, b)}}}, "", false},
		{"expired, but its connection is open still",
			Facts{Held: []certificate.Holding{
				with(holding(a, time.Hour), func(h *certificate.Holding) { h.NotAfter, h.Connected = noon, true }),
				holding(b, time.Minute)}, History: History{Rotations: []Rotation{vended(1, b)}}}, "not a proven successor", false},
		{"the successor ends within hours, the old one does not",
			Facts{Held: []certificate.Holding{holding(a, time.Hour),
				with(holding(b, time.Minute), func(h *certificate.Holding) { h.NotAfter = noon.Add(time.Hour) })},
				History: history}, "expires first, and soon", false},
		{"the successor ends within hours, as the old one does",
			Facts{Held: []certificate.Holding{
				with(holding(a, time.Hour), func(h *certificate.Holding) { h.NotAfter = noon.Add(time.Hour) }),
				with(holding(b, time.Minute), func(h *certificate.Holding) { h.NotAfter = noon.Add(time.Hour) })},
				History: history}, "", false},
		{"expired, but the broker still takes it for a while",
			Facts{Window: time.Hour, Held: []certificate.Holding{
				with(holding(a, time.Minute), func(h *certificate.Holding) { h.NotAfter = noon }), holding(b, never)},
				History: history}, "last seen on this certificate", true},
		{"taken from the device already",
			Facts{Held: []certificate.Holding{holding(b, time.Minute)}, History: history}, "", false},
		{"a birth certificate",
			Facts{Held: []certificate.Holding{with(holding(a, time.Hour), func(h *certificate.Holding) { h.Kind = certificate.Birth }),
				holding(b, time.Minute)}, History: history}, "birth", false},
		{"a package that waits for its device",
			Facts{Held: []certificate.Holding{with(holding(a, never), func(h *certificate.Holding) {
				h.Kind, h.Standing = certificate.Packaged, certificate.Inactive
			}), holding(b, time.Minute)}, History: history}, "package that waits", false},
		{"a package that was deactivated as the first half of its deletion",
			Facts{Retirement: Retirement{Certificate: a, Deactivated: noon},
				Held: []certificate.Holding{with(holding(a, never), func(h *certificate.Holding) {
					h.Kind, h.Standing = certificate.Packaged, certificate.Inactive
				}), holding(b, time.Minute)}, History: history}, "", false},
		{"vended again by a later rotation than the one that replaced it",
			Facts{Retirement: Retirement{Certificate: b, Rotation: 2},
				Held:    []certificate.Holding{holding(b, never), holding(c, time.Minute)},
				History: History{Rotations: []Rotation{vended(3, b), proven(2, c), {Number: 1, State: Abandoned, Certificate: b}}}},
			"rotation 3 has vended it again since", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			facts := test.facts
			if facts.Retirement.Certificate == "" {
				facts.Retirement.Certificate = a
			}
			if facts.Recent = 24 * time.Hour; facts.Now.IsZero() {
				facts.Now = noon
			}
			check(t, facts.Allowed(), test.why, test.reverted)
		})
	}
}

// TestOneRuleByProof is the exception for worlds that cannot see which
// certificate speaks.
func TestOneRuleByProof(t *testing.T) {
	a, b := pad("a"), pad("b")
	history := History{Rotations: []Rotation{proven(1, b)}}
	blind := []certificate.Holding{holding(a, never), holding(b, 25*time.Hour)}
	expired := holding(b, 25*time.Hour)
	expired.NotAfter = noon
	withdrawn := holding(b, 25*time.Hour)
	withdrawn.Standing = certificate.Inactive
	for _, test := range []struct {
		name     string
		mode     certificate.Mode
		age      time.Duration
		grace    time.Duration
		held     []certificate.Holding
		why      string
		reverted bool
	}{
		{"a day later", certificate.Deactivate, 25 * time.Hour, 0, blind, "", false},
		{"within the day", certificate.Deactivate, 23 * time.Hour, 0, blind, "kept for 24h", false},
		{"within a longer grace", certificate.Deactivate, 25 * time.Hour, 48 * time.Hour, blind, "kept for 48h", false},
		{"to delete", certificate.Delete, 25 * time.Hour, 0, blind, "never deletes", false},
		{"the proven one has expired", certificate.Deactivate, 25 * time.Hour, 0,
			[]certificate.Holding{holding(a, never), expired}, "expires first, and soon", false},
		{"the proven one was withdrawn", certificate.Deactivate, 25 * time.Hour, 0,
			[]certificate.Holding{holding(a, never), withdrawn}, "not usable", false},
		{"seen on the old one since", certificate.Deactivate, 25 * time.Hour, 0,
			[]certificate.Holding{holding(a, 24*time.Hour), holding(b, 23*time.Hour+50*time.Minute)}, "", false},
		{"seen last on the old one", certificate.Deactivate, 25 * time.Hour, 0,
			[]certificate.Holding{holding(a, time.Hour), holding(b, 25*time.Hour)}, "last seen on this certificate", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			check(t, Facts{
				Retirement: Retirement{Certificate: a, Rotation: 1, Mode: test.mode,
					Evidence: certificate.Proof, ProvenAt: noon.Add(-test.age)},
				Held: test.held, History: history, Now: noon, Recent: 24 * time.Hour, Grace: test.grace,
			}.Allowed(), test.why, test.reverted)
		})
	}
	t.Run("seen on the old one after the proof, and never since", func(t *testing.T) {
		later := holding(b, 30*time.Hour)
		check(t, Facts{
			Retirement: Retirement{Certificate: a, Rotation: 1, Mode: certificate.Deactivate,
				Evidence: certificate.Proof, ProvenAt: noon.Add(-48 * time.Hour)},
			Held: []certificate.Holding{holding(a, 40*time.Hour), later}, History: history,
			Now: noon, Recent: 24 * time.Hour,
		}.Allowed(), "seen on it after the proof", true)
	})
}

func check(t *testing.T, err error, why string, reverted bool) {
	t.Helper()
	if why == "" {
		if err != nil {
			t.Fatalf("kept: %v", err)
		}
		return
	}
	var kept Kept
	if !errors.As(err, &kept) {
		t.Fatalf("got %v, want it kept because %q", err, why)
	}
	if !strings.Contains(kept.Why, why) || kept.Reverted != reverted {
		t.Fatalf("kept because %q (reverted %t), want %q (reverted %t)", kept.Why, kept.Reverted, why, reverted)
	}
}
