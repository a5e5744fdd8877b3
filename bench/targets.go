package main

import "fmt"

// target is what certvendor is to reach, in one run, beside others.
type target struct {
	what       string
	meet, goal float64
	atMost     bool // less is better
	format     string
	measured   float64
	rounds     int // in which both sides were undisturbed
}

// met says how a target stands.
func (t target) met() string {
	reached := func(limit float64) bool {
		if t.atMost {
			return t.measured <= limit
		}
		return t.measured >= limit
	}
	switch {
	case t.rounds == 0 || t.measured == 0:
		return "not measured"
	case reached(t.goal):
		return "met, and the goal beyond it"
	case reached(t.meet):
		return "met"
	}
	return "**not met**"
}

func (t target) row() string {
	sign := "≥ "
	if t.atMost {
		sign = "≤ "
	}
	number := func(n float64) string { return fmt.Sprintf(t.format, n) }
	measured := "-"
	if t.rounds > 0 {
		measured = number(t.measured)
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", t.what, measured, sign+number(t.meet), sign+number(t.goal), t.met())
}

// targets are all there are, with what was measured.
func (r *report) targets() []target {
	us := kind{"certvendor", most}
	compare := func(rs *rounds, what, with string, read func(sample) float64, meet, goal float64) target {
		t := target{what: what, meet: meet, goal: goal, format: "%.2f"}
		t.measured, t.rounds = rs.ratio(us, kind{with, most}, read)
		return t
	}
	tail := compare(&r.p256, "p99 / step-ca sign", "step-ca sign", p99, 0.3, 0.2)
	tail.atMost = true
	alone := kind{"certvendor", 1}
	lone := target{
		what: "one request at a time, p50", meet: 1.0, goal: 0.6, atMost: true, format: "%.2f ms",
		measured: r.p256.median(alone, p50), rounds: r.p256.count(alone),
	}
	return []target{
		compare(&r.p256, "certificates/s / step-ca sign", "step-ca sign", rate, 4, 5),
		compare(&r.p256, "certificates/s / step-ca renew", "step-ca renew", rate, 1.6, 2.2),
		compare(&r.p256, "certificates/s / cfssl without a store", "cfssl sign", rate, 1.4, 1.9),
		compare(&r.p256, "certificates/s / crypto alone", "crypto alone", rate, 0.8, 1.1),
		tail,
		lone,
		compare(&r.rsa, "RSA-2048 CA: certificates/s / crypto alone", "crypto alone", rate, 0.88, 0.95),
	}
}
