package standalone

import (
	"time"

	"github.com/certvendor/certvendor/internal/store"
)

// dataKey is what names the data directory in the configuration.
const dataKey = "standalone.data"

// TakeLock takes the exclusive right to a data directory, see store.TakeLock.
func TakeLock(data string, now time.Time) (*store.Lock, error) {
	return store.TakeLock(data, dataKey, now)
}
