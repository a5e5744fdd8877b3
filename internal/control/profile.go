package control

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/pprof"
	"strconv"
	"time"
)

// maxProfile is how long a profile may take.
const maxProfile = 5 * time.Minute

// Profile kinds.
const (
	ProfileCPU    = "cpu"    // where the time goes
	ProfileAllocs = "allocs" // where memory is taken, since the start
	ProfileHeap   = "heap"   // where memory is held
	ProfileMutex  = "mutex"  // where locks are waited for, while it lasts
	ProfileBlock  = "block"  // where goroutines wait, while it lasts
)

// profileRequest asks for a profile.
type profileRequest struct {
	Kind  string        `json:"kind"`
	Lasts time.Duration `json:"lasts"`
}

// profiled is a profile as pprof reads it.
type profiled struct {
	Profile []byte `json:"profile"`
}

// profile watches the program itself. Nothing is watched, or costs anything,
// while nobody asks. In a profile there are names of functions and numbers, and
// nothing of what they worked on.
func (s *Server) profile(r *http.Request) (any, error) {
	var asked profileRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if asked.Lasts < 0 || asked.Lasts > maxProfile {
		return nil, refuse(http.StatusBadRequest, "a profile of %s: must be from 0s to %s", asked.Lasts, maxProfile)
	}
	if !s.profiling.TryLock() {
		return nil, refuse(http.StatusConflict, "another profile is being taken: try again when it is done")
	}
	defer s.profiling.Unlock()
	err := s.note(r.Context(), Event{Kind: "profile", Detail: map[string]string{"kind": asked.Kind, "seconds": strconv.Itoa(int(asked.Lasts.Seconds()))}})
	if err != nil {
		return nil, err
	}
	var into bytes.Buffer
	if err := asked.take(r.Context(), &into); err != nil {
		return nil, err
	}
	return profiled{into.Bytes()}, nil
}

func (p profileRequest) take(ctx context.Context, into *bytes.Buffer) error {
	switch p.Kind {
	case ProfileCPU:
		if err := pprof.StartCPUProfile(into); err != nil {
			return fmt.Errorf("profile: %w", err)
		}
		p.wait(ctx)
		pprof.StopCPUProfile()
		return nil
	case ProfileMutex:
		defer runtime.SetMutexProfileFraction(runtime.SetMutexProfileFraction(1))
	case ProfileBlock:
		runtime.SetBlockProfileRate(1)
		defer runtime.SetBlockProfileRate(0)
	case ProfileAllocs, ProfileHeap:
	default:
		return refuse(http.StatusBadRequest, "a profile of %.20q: must be one of cpu, allocs, heap, mutex, block", p.Kind)
	}
	p.wait(ctx)
	if err := pprof.Lookup(p.Kind).WriteTo(into, 0); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	return nil
}

func (p profileRequest) wait(ctx context.Context) {
	timer := time.NewTimer(p.Lasts)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Profile has the daemon watch itself for so long, and returns what pprof
// reads. Kind is one of the Profile kinds.
func (c *Client) Profile(ctx context.Context, kind string, lasts time.Duration) ([]byte, error) {
	reply, err := ask[profiled](ctx, c, request{method: http.MethodPost, path: "/v1/profile", body: profileRequest{kind, lasts}})
	return reply.Profile, err
}
