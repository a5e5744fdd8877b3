package system

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/certvendor/certvendor/bench/load"
)

//go:embed pem.js
var pemProgram []byte

// PEM is how the original signs: its Node.js library, which has openssl started
// for each certificate. There is no network, no store and no rule in it.
type PEM struct {
	ca      *CA
	process *process
	in      io.WriteCloser
	out     *bufio.Reader
}

// StartPEM starts Node.js with the library that was installed below modules.
func StartPEM(dir, modules string, ca *CA) (*PEM, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	program := filepath.Join(dir, "pem.js")
	if err := os.WriteFile(program, pemProgram, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("node", program, filepath.Join(ca.Dir, "issuing.crt"), filepath.Join(ca.Dir, "issuing.key"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NODE_PATH="+filepath.Join(modules, "node_modules"), "TMPDIR="+dir)
	p := &PEM{ca: ca}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	// A pipe of our own: the process's end is awaited beside the reading.
	reads, writes, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, p.out = writes, bufio.NewReader(reads)
	if p.process, err = run(dir, "pem", cmd); err != nil {
		return nil, err
	}
	return p, writes.Close()
}

// Name implements System.
func (p *PEM) Name() string { return "pem (openssl)" }

// PIDs implements System.
func (p *PEM) PIDs() []int { return []int{p.process.pid()} }

// Close implements System.
func (p *PEM) Close() error { return p.process.Close() }

// Prepare implements System. The loop runs in Node.js.
func (p *PEM) Prepare(workers int, lasts time.Duration) (func() (load.Result, error), func() error, error) {
	requests, err := newRequests(16, func(int) string { return "device" })
	if err != nil {
		return nil, nil, err
	}
	var csrs []string
	for _, r := range requests {
		csrs = append(csrs, string(r.pem))
	}
	order, err := json.Marshal(map[string]any{"workers": workers, "ms": lasts.Milliseconds(), "csrs": csrs})
	if err != nil {
		return nil, nil, err
	}
	var told struct {
		Ms    float64
		Done  []float64
		Certs []string
		Error string
	}
	run := func() (load.Result, error) {
		if _, err := p.in.Write(append(order, '\n')); err != nil {
			return load.Result{}, fmt.Errorf("pem: %w", err)
		}
		line, err := p.out.ReadBytes('\n')
		if err != nil {
			return load.Result{}, fmt.Errorf("pem: %w; see %s", err, p.process.log.Name())
		}
		if err := json.Unmarshal(line, &told); err != nil || told.Error != "" {
			return load.Result{}, fmt.Errorf("pem: %v %s", err, told.Error)
		}
		r := load.Result{Took: milliseconds(told.Ms)}
		for _, ms := range told.Done {
			r.Latencies = append(r.Latencies, milliseconds(ms))
		}
		slices.Sort(r.Latencies)
		return r, nil
	}
	check := func() error {
		for i, text := range told.Certs {
			if err := p.ca.verify([]byte(text), requests[i%len(requests)].key.Public()); err != nil {
				return err
			}
		}
		return nil
	}
	return run, check, nil
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }
