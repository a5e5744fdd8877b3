package store

import "sync"

// handedKept is how many rows are kept in memory for the copier, some 4 MiB at
// most. It reads what is more from the store.
const handedKept = 1 << 12

// handed are rows that were committed and not copied, without a gap, so that
// the copier need not read and encode what the writer has just written.
type handed struct {
	mu   sync.Mutex
	rows []record
}

func (h *handed) add(rows []record) {
	if len(rows) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.rows) > 0 && (rows[0].before != h.rows[len(h.rows)-1].end || len(h.rows)+len(rows) > handedKept) {
		h.rows = nil
	}
	if len(rows) <= handedKept {
		h.rows = append(h.rows, rows...)
	}
}

// after takes the rows if they follow a head; nil if they do not, or there are
// none.
func (h *handed) after(last head) []record {
	h.mu.Lock()
	defer h.mu.Unlock()
	rows := h.rows
	h.rows = nil
	if len(rows) == 0 || rows[0].before != last {
		return nil
	}
	return rows
}
