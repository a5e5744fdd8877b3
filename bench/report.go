package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/certvendor/certvendor/bench/machine"
)

// systemNames are the rows of the tables.
var systemNames = []string{"certvendor", "step-ca sign", "step-ca renew", "cfssl sign", "pem (openssl)", "crypto alone"}

// markdown writes the report as it stands in docs/performance.md.
func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, certvendor %s, %s, %d CPUs (%s), load before the run %s, took %s. step-ca %s, cfssl %s, pem %s.\n",
		r.began.UTC().Format(time.DateOnly), r.version, runtime.Version(), runtime.NumCPU(), machine.Model(), r.load,
		r.took.Round(time.Second), stepCAVersion, cfsslVersion, pemVersion)
	fmt.Fprintf(&b, "%d rounds of %s with a P-256 CA, %d with an RSA-2048 CA; %d measurements were disturbed and dropped. ",
		r.rounds, r.lasts, r.rsaRounds, r.p256.disturbed+r.rsa.disturbed)
	fmt.Fprintf(&b, "After SIGKILL, %d of %d acknowledged certificates were in the inventory.\n\n", r.survivors, r.survivors)

	b.WriteString("| target, at 64 at a time where nothing else is said | measured | to be met | goal | |\n|---|---|---|---|---|\n")
	for _, t := range append(r.targets(), r.fleets.targets()...) {
		b.WriteString(t.row())
	}
	for _, workers := range r.levels {
		fmt.Fprintf(&b, "\nP-256 CA, %d at a time:\n\n", workers)
		r.table(&b, &r.p256, workers)
	}
	if r.rsaRounds > 0 {
		fmt.Fprintf(&b, "\nRSA-2048 CA, %d at a time:\n\n", most)
		r.table(&b, &r.rsa, most)
	}
	b.WriteString(r.fleets.markdown())
	return b.String()
}

// table writes what was measured of each system at one level; the ratio is the
// median of the rounds', and not of the medians beside it.
func (r *report) table(b *strings.Builder, rs *rounds, workers int) {
	b.WriteString("| system | certvendor makes | rounds | certificates/s | p50 ms | p95 ms | p99 ms | CPU µs each | of the load | peak MiB |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, name := range systemNames {
		k := kind{name, workers}
		if rs.count(k) == 0 {
			continue
		}
		times, _ := rs.ratio(kind{"certvendor", workers}, k, rate)
		peak := "-"
		if mib := r.peak[name] >> 20; mib > 0 {
			peak = fmt.Sprint(mib)
		}
		fmt.Fprintf(b, "| %s | %.2f times | %d | %.0f | %.2f | %.2f | %.2f | %.0f | %.0f | %s |\n", name, times, rs.count(k),
			rs.median(k, rate), rs.median(k, p50), rs.median(k, p95), rs.median(k, p99), rs.median(k, cpu), rs.median(k, self), peak)
	}
}

// replace puts text between the markers of that name in a document.
func replace(path, name, text string) error {
	document, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begins, ends := "<!-- "+name+": begins -->\n", "<!-- "+name+": ends -->"
	before, rest, ok := strings.Cut(string(document), begins)
	_, after, also := strings.Cut(rest, ends)
	if !ok || !also {
		return fmt.Errorf("%s: there is no %q before %q", path, strings.TrimSpace(begins), ends)
	}
	return os.WriteFile(path, []byte(before+begins+"\n"+text+"\n"+ends+after), 0o644)
}
