package fleet

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// pairsOnDisk reads which pairs of key and certificate a device really has,
// the newest first. It changes nothing; the device must not be at work.
func (o Options) pairsOnDisk(d Device) ([]tls.Certificate, error) {
	disk := o.disk(d)
	if d.Firmware == CDF || d.Firmware == EarlyAcker {
		s, err := readSlot(disk)
		return []tls.Certificate{s.pair}, err
	}
	n, err := agentPairs(disk)
	if err != nil {
		return nil, err
	}
	var pairs []tls.Certificate
	for _, each := range n {
		directory := filepath.Join(disk, "pairs", strconv.Itoa(each))
		pair, err := tls.LoadX509KeyPair(filepath.Join(directory, "certificate.pem"), filepath.Join(directory, "private.key"))
		if err != nil {
			return pairs, fmt.Errorf("pair %d on the disk: %w", each, err)
		}
		pairs = append(pairs, pair)
	}
	return pairs, nil
}

func (o Options) disk(d Device) string { return filepath.Join(o.Directory, d.Name) }

// agentState is as much of an agent's state as says which pairs it would use.
// Package device describes the files in its store.go.
type agentState struct {
	Current   int `json:"current"`
	Candidate *struct {
		Pair   int  `json:"pair"`
		Issued bool `json:"issued"`
	} `json:"candidate"`
}

func readAgent(disk string) (agentState, error) {
	var state agentState
	text, err := os.ReadFile(filepath.Join(disk, "state.json"))
	if err != nil {
		return state, err
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return state, fmt.Errorf("state.json on the disk: %w", err)
	}
	return state, nil
}

// agentPairs numbers the pairs that an agent has certificates for.
func agentPairs(disk string) ([]int, error) {
	state, err := readAgent(disk)
	if err != nil {
		return nil, err
	}
	if state.waits() {
		return []int{state.Candidate.Pair, state.Current}, nil
	}
	return []int{state.Current}, nil
}

// waits reports whether a certificate is stored and not yet in use.
func (s agentState) waits() bool { return s.Candidate != nil && s.Candidate.Issued }
