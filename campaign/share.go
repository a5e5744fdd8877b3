package campaign

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Share is a number of devices, or a part of all in percent: "10" or "2.5%". The
// zero Share is one that was left out.
type Share struct {
	Count   int
	Percent float64
}

var (
	errShare = errors.New("must be a number such as 10, or a part such as 2.5%")
	errNone  = errors.New("must be more than none")
)

// UnmarshalText reads a share. None is refused, or what was written as none would be
// taken for what was left out, and get its default: an abort rule of 0 would be one
// of 5%.
func (s *Share) UnmarshalText(text []byte) error {
	if part, ok := strings.CutSuffix(string(text), "%"); ok {
		percent, err := strconv.ParseFloat(part, 64)
		if err != nil || !(percent > 0 && percent <= 100) {
			return errShare
		}
		*s = Share{Percent: percent}
		return nil
	}
	count, err := strconv.Atoi(string(text))
	if err != nil || count < 0 {
		return errShare
	}
	if count == 0 {
		return errNone
	}
	*s = Share{Count: count}
	return nil
}

// MarshalText writes a share as UnmarshalText reads it.
func (s Share) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String writes a share as UnmarshalText reads it.
func (s Share) String() string {
	if s.Percent > 0 {
		return strconv.FormatFloat(s.Percent, 'f', -1, 64) + "%"
	}
	return fmt.Sprint(s.Count)
}

// Of returns how many of all that is, a part rounded up, and never more than
// there are.
func (s Share) Of(all int) int {
	if s.Percent > 0 {
		return min(all, int(math.Ceil(float64(all)*s.Percent/100)))
	}
	return min(all, s.Count)
}
