package campaign

import (
	"errors"
	"fmt"
	"time"
)

// hours is a window, in minutes of the day.
type hours struct{ from, to int }

const wholeDay = 24 * 60

func (w Window) parse() (hours, error) {
	if w.From == "" && w.To == "" {
		return hours{0, wholeDay}, nil
	}
	from, err := minutes(w.From)
	if err != nil {
		return hours{}, fmt.Errorf("window.from: %w", err)
	}
	to, err := minutes(w.To)
	if err != nil {
		return hours{}, fmt.Errorf("window.to: %w", err)
	}
	if from == to {
		return hours{}, errors.New("window: ends when it begins; leave it out for the whole day")
	}
	return hours{from, to}, nil
}

func minutes(text string) (int, error) {
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, fmt.Errorf("%.20q must be a time of the day such as 01:30", text)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// isOpen reports whether the window is open for devices of a zone. A zone that
// nobody knows is taken for UTC.
func (h hours) isOpen(zone string, now time.Time) bool {
	place, err := time.LoadLocation(zone)
	if err != nil {
		place = time.UTC
	}
	local := now.In(place)
	minute := local.Hour()*60 + local.Minute()
	if h.from < h.to {
		return minute >= h.from && minute < h.to
	}
	return minute >= h.from || minute < h.to
}

// length is how many minutes of a day the window is open.
func (h hours) length() int {
	if h.from < h.to {
		return h.to - h.from
	}
	return wholeDay - h.from + h.to
}
