package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// lastMoment is the last moment that can be kept: what is later, as the end of a grace
// of centuries, is kept as if it were then.
var lastMoment = time.Unix(0, math.MaxInt64)

// nanos is how a moment is kept: unix nanoseconds, 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	if t.After(lastMoment) {
		t = lastMoment
	}
	return t.UnixNano()
}

func moment(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// array keeps a short list of names as JSON; an empty one is the empty text, so
// that an index can leave it out.
func array[T ~string](names []T) string {
	if len(names) == 0 {
		return ""
	}
	text, err := json.Marshal(names)
	if err != nil {
		panic("store: a list of strings: " + err.Error())
	}
	return string(text)
}

func names[T ~string](text string) ([]T, error) {
	if text == "" {
		return nil, nil
	}
	var all []T
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	return all, nil
}

// object keeps a small map as JSON, its names in order, as encoding/json does.
func object(m map[string]string) string {
	if len(m) == 0 {
		return "{}"
	}
	var few [24]string // so many are sorted where they are
	names, size := few[:0], 1
	for name, text := range m {
		names = append(names, name)
		size += len(name) + len(text) + len(`"":"",`)
	}
	slices.Sort(names)
	text := append(make([]byte, 0, size), '{')
	for i, name := range names {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(appendText(text, name), ':')
		text = appendText(text, m[name])
	}
	return string(append(text, '}'))
}

func fields(text string) (map[string]string, error) {
	var m map[string]string
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("read object: %w", err)
	}
	if len(m) == 0 {
		return nil, nil
	}
	return m, nil
}

// joined keeps a chain as one value: each certificate after its length.
func joined(chain [][]byte) []byte {
	all := []byte{}
	for _, der := range chain {
		all = binary.AppendUvarint(all, uint64(len(der)))
		all = append(all, der...)
	}
	return all
}

var errChain = errors.New("the chain is not as it was written")

func parted(all []byte) ([][]byte, error) {
	var chain [][]byte
	for len(all) > 0 {
		size, n := binary.Uvarint(all)
		if n <= 0 || size > uint64(len(all)-n) {
			return nil, errChain
		}
		end := n + int(size)
		chain = append(chain, all[n:end:end])
		all = all[end:]
	}
	return chain, nil
}

// stamp is how a moment is written in the detail of an event; empty for the
// zero time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func readStamp(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, text)
}
