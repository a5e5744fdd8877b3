package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// memory returns how many MiB the daemon has resident.
func (g *grown) memory() int {
	g.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmRSS:" {
			kib, _ := strconv.Atoi(fields[1])
			return kib >> 10
		}
	}
	return 0
}

// used returns how much of a processor the daemon has used so far.
func (g *grown) used() time.Duration {
	g.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(text), ") ") // behind the name, see proc_pid_stat(5)
	fields := strings.Fields(after)
	var ticks time.Duration
	for _, field := range fields[11:13] { // of its own and of the kernel, in hundredths of a second
		n, _ := strconv.Atoi(field)
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// growthTable is the figures as a table, the smallest store first.
func growthTable(all []*grown) string {
	var b strings.Builder
	row := func(what string, of func(*grown) string) {
		fmt.Fprintf(&b, "| %s |", what)
		for _, g := range all {
			fmt.Fprintf(&b, " %s |", of(g))
		}
		b.WriteByte('\n')
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	ratio := func(of func(*grown) time.Duration) func(*grown) string {
		return func(g *grown) string { return fmt.Sprintf("%.2f", float64(of(g))/float64(of(all[0]))) }
	}
	median := func(g *grown) time.Duration { return quantile(g.gets, 0.5) }
	late := func(g *grown) time.Duration { return quantile(g.gets, 0.99) }
	row("devices", func(g *grown) string { return strconv.Itoa(g.n) })
	row("---", func(*grown) string { return "---" })
	row("get p50", func(g *grown) string { return ms(median(g)) })
	row("get p50, times the first", ratio(median))
	row("get p99", func(g *grown) string { return ms(late(g)) })
	row("get p99, times the first", ratio(late))
	row("start-up", func(g *grown) string { return seconds(g.started) })
	row("sweep, nothing due", func(g *grown) string { return ms(g.idle) })
	row("sweep, with certificates to retire", func(g *grown) string { return ms(g.due) })
	row("the same, a certificate", func(g *grown) string { return ms(g.due / time.Duration(max(g.retired, 1))) })
	for _, verb := range growthVerbs {
		row("`"+verb+"`", func(g *grown) string { return seconds(quantile(g.lists[verb], 0.5)) })
		row("the same, of a processor", func(g *grown) string { return seconds(quantile(g.work[verb], 0.5)) })
	}
	if all[0].joined == 0 {
		return b.String()
	}
	row("`rotation add --all`", func(g *grown) string { return seconds(g.joined) })
	row("the same, a device", func(g *grown) string {
		return fmt.Sprintf("%d µs", g.joined.Microseconds()/int64(g.n+len(g.callers)))
	})
	row("resident after the start", func(g *grown) string { return fmt.Sprintf("%d MiB", g.resident[0]) })
	row("resident in the end", func(g *grown) string { return fmt.Sprintf("%d MiB", g.resident[1]) })
	row("gets measured", func(g *grown) string { return strconv.Itoa(len(g.gets)) })
	return b.String()
}

func quantile(all []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
