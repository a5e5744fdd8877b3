package standalone

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// jobMemory is a JobStore and a PaceStore in memory.
type jobMemory struct {
	now      func() time.Time
	mu       sync.Mutex
	all      []jobs.Execution
	waiting  []registry.DeviceID
	released []time.Time
	asked    int    // how often to release
	err      error  // of every method, if set
	before   func() // of an update, once, if set
}

func (m *jobMemory) Pending(_ context.Context, device registry.DeviceID) ([]jobs.Execution, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var pending []jobs.Execution
	for _, status := range []protocol.JobStatus{protocol.JobInProgress, protocol.JobQueued} {
		for _, e := range m.all {
			if e.Device == device && e.Status == status {
				pending = append(pending, e)
			}
		}
	}
	return pending, m.err
}

func (m *jobMemory) index(device registry.DeviceID, id string, number int64) int {
	for i, e := range slices.Backward(m.all) {
		if e.Device == device && e.JobID == id && (number == 0 || number == e.Number) {
			return i
		}
	}
	return -1
}

func (m *jobMemory) Execution(_ context.Context, device registry.DeviceID, id string, number int64) (jobs.Execution, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.index(device, id, number); i >= 0 {
		return m.all[i], m.err
	}
	return jobs.Execution{}, store.ErrNoExecution
}

func (m *jobMemory) Document(_ context.Context, id string) ([]byte, error) {
	return fmt.Appendf(nil, `{"operation":"RotateCertificates","job":%q}`, id), m.err
}

func (m *jobMemory) Update(
	_ context.Context, device registry.DeviceID, id string, number int64, change func(jobs.Execution) (jobs.Execution, error),
) (jobs.Execution, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if before := m.before; before != nil {
		m.before = nil
		before()
	}
	i := m.index(device, id, number)
	if i < 0 {
		return jobs.Execution{}, store.ErrNoExecution
	}
	changed, err := change(m.all[i])
	if err != nil {
		return jobs.Execution{}, err
	}
	m.all[i] = changed
	return changed, m.err
}

func (m *jobMemory) Waits(context.Context) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.waiting) > 0, m.err
}

func (m *jobMemory) Release(_ context.Context, limit int) ([]registry.DeviceID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	devices := slices.Clone(m.waiting[:min(limit, len(m.waiting))])
	m.waiting = m.waiting[len(devices):]
	for _, device := range devices {
		m.queue(device, "rotate", 1)
		m.released = append(m.released, m.now())
	}
	return devices, m.err
}

func (m *jobMemory) InFlight(context.Context) (n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.all {
		if !e.Status.Terminal() {
			n++
		}
	}
	return n, m.err
}

func (m *jobMemory) TimeOut(_ context.Context, startedBefore time.Time) (devices []registry.DeviceID, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, e := range m.all {
		if e.Status == protocol.JobInProgress && e.StartedAt.Before(startedBefore) {
			m.all[i] = e.End(protocol.JobTimedOut, m.now())
			return []registry.DeviceID{e.Device}, m.err // one at a time: the pacer asks again
		}
	}
	return nil, m.err
}

// queue adds an execution; the lock is held, or nobody else is there yet.
func (m *jobMemory) queue(device registry.DeviceID, id string, number int64) {
	m.all = append(m.all, jobs.Execution{
		JobID: id, Device: device, Number: number, Status: protocol.JobQueued, Version: 1, QueuedAt: m.now(), UpdatedAt: m.now(),
	})
}

// wait adds members that wait for their execution.
func (m *jobMemory) wait(devices ...registry.DeviceID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting = append(m.waiting, devices...)
}

func (m *jobMemory) status(device registry.DeviceID, id string) protocol.JobStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.index(device, id, 0); i >= 0 {
		return m.all[i].Status
	}
	return ""
}
