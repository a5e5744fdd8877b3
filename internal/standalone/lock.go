package standalone

import (
	"time"

	"github.com/certvendor/certvendor/internal/store"
)

// TakeLock takes the exclusive right to a data directory, see store.TakeLock.
func TakeLock(data string, now time.Time) (*store.Lock, error) {
	return store.TakeLock(data, "standalone.data", now)
}
