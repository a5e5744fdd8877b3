// Package machine reads from /proc what a round cost and who else was at work.
package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the CPU times in /proc: USER_HZ is 100 on Linux, whatever
// the kernel's own clock.
const tick = 10 * time.Millisecond

// Reading is the machine at a moment.
type Reading struct {
	At        time.Time
	Busy      time.Duration // of all CPUs, the hypervisor's steal not among it
	Steal     time.Duration // what the hypervisor took away
	Self      time.Duration // CPU time of this process
	Processes time.Duration // CPU time of the processes asked for, and of their children that have ended
}

// Read reads the machine and the given processes.
func Read(pids []int) (r Reading, err error) {
	r.At = time.Now()
	if r.Busy, r.Steal, err = whole(); err != nil {
		return r, err
	}
	if r.Self, err = CPU(os.Getpid()); err != nil {
		return r, err
	}
	for _, pid := range pids {
		spent, err := CPU(pid)
		if err != nil {
			return r, err
		}
		r.Processes += spent
	}
	return r, nil
}

// Spent is what happened between two readings.
type Spent struct {
	Took             time.Duration
	Self, Processes  time.Duration
	Other, StealRate float64 // shares of the whole machine, 0 to 1
}

// Since returns what happened since an earlier reading.
func (r Reading) Since(earlier Reading) Spent {
	s := Spent{Took: r.At.Sub(earlier.At), Self: r.Self - earlier.Self, Processes: r.Processes - earlier.Processes}
	all := float64(s.Took) * float64(runtime.NumCPU())
	s.Other = max(0, float64(r.Busy-earlier.Busy-s.Self-s.Processes)) / all
	s.StealRate = float64(r.Steal-earlier.Steal) / all
	return s
}

// Above these shares of the machine, a measurement is disturbed.
const (
	maxOther = 0.15
	maxSteal = 0.02
)

// Disturbed reports whether something else was at work.
func (s Spent) Disturbed() bool { return s.Other > maxOther || s.StealRate > maxSteal }

// AwaitQuiet returns once everything else used little of the machine for half
// a second, or when limit has passed.
func AwaitQuiet(limit time.Duration) error {
	for end := time.Now().Add(limit); ; {
		before, err := Read(nil)
		if err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
		after, err := Read(nil)
		if err != nil {
			return err
		}
		if s := after.Since(before); s.Other < 0.12 || time.Now().After(end) {
			return nil
		}
	}
}

// whole reads the first line of /proc/stat (proc_stat(5)).
func whole() (busy, steal time.Duration, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return 0, 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks [8]int64 // user nice system idle iowait irq softirq steal
	for i := range ticks {
		if ticks[i], err = strconv.ParseInt(fields[i+1], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
	}
	used := ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]
	return time.Duration(used) * tick, time.Duration(ticks[7]) * tick, nil
}

// CPU returns the CPU time of a process and of its children that have ended.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything: what counts follows it.
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	if len(fields) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat is too short", pid)
	}
	var sum int64
	for _, field := range fields[11:15] { // utime stime cutime cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		sum += n
	}
	return time.Duration(sum) * tick, nil
}

// Peak returns the most memory that a process had resident, in octets.
func Peak(pid int) (int, error) { return status(pid, "VmHWM:") }

// Resident returns the memory that a process has resident, in octets.
func Resident(pid int) (int, error) { return status(pid, "VmRSS:") }

func status(pid int, name string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, name)
}

// Load returns the load averages, as the kernel writes them.
func Load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

// Model returns what kind of processor this is.
func Model() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if errors.Is(err, fs.ErrNotExist) {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
