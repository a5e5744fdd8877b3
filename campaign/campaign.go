// Package campaign rotates a part of the fleet in waves: a canary first, then
// the others, at a pace, and it stops by itself when devices fail. It holds no
// I/O; a back end supplies a Store.
//
// Read this file for what a campaign is, judge.go for when a device has passed
// or failed, gate.go for when the next wave may begin, and runner.go for what
// happens again and again until the end. plan.go foretells a campaign; auto.go is the one
// that devices enter as their certificates come due.
package campaign

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// The kinds of errors that callers of a Store may test for.
var (
	ErrUnknown = errors.New("unknown campaign")
	// ErrDiffers says that there is a campaign of that name with another spec.
	ErrDiffers = errors.New("a campaign of this name is different")
)

// Order says which of the chosen devices come first.
type Order string

// The orders.
const (
	ByExpiry Order = "expiry" // whose certificate expires first
	Randomly Order = "random" // the same order for the same name of a campaign
)

// Choice says which devices take part. All that is given must hold.
type Choice struct {
	All            bool          `yaml:"all" json:"all,omitempty"`
	ExpiringWithin time.Duration `yaml:"expiring_within" json:"expiringWithin,omitempty"`
	IssuedBy       string        `yaml:"issued_by" json:"issuedBy,omitempty"` // the issuer's common name, or its whole name
	Key            string        `yaml:"key" json:"key,omitempty"`            // such as rsa2048 or p256
	Attributes     []string      `yaml:"attributes" json:"attributes,omitempty"`
	Names          []string      `yaml:"names" json:"names,omitempty"`
	Except         []string      `yaml:"except" json:"except,omitempty"`
	Sample         Share         `yaml:"sample" json:"sample,omitzero"` // of those chosen; the same ones for the same name of a campaign
	Order          Order         `yaml:"order" json:"order,omitempty"`
}

// Canary is the first wave: few devices, which must prove that it works.
type Canary struct {
	Size Share `yaml:"size" json:"size,omitzero"`
	// Pass is how many of them must be proven, and still be seen on their new
	// certificate after the soak; zero: nine of ten.
	Pass Share `yaml:"pass" json:"pass,omitzero"`
	// Strata is an attribute: the canary takes devices of each of its values.
	Strata string `yaml:"strata" json:"strata,omitempty"`
}

// Abort says when too many devices have failed: at least so many, and at
// least that share of those that have come to an end.
type Abort struct {
	Failed  Share `yaml:"failed" json:"failed,omitzero"`
	AtLeast int   `yaml:"at_least" json:"atLeast,omitempty"`
}

// Window is a time of the day in which devices are let in, by the clock of the
// device: its attribute Zone holds a name of the IANA time zone database; one
// without is taken to be in UTC. A window that ends before it begins goes past
// midnight. From and To both empty: always.
type Window struct {
	From string `yaml:"from" json:"from,omitempty"` // 01:00
	To   string `yaml:"to" json:"to,omitempty"`
	Zone string `yaml:"zone" json:"zone,omitempty"`
}

// Gates say who opens the gate between two waves.
type Gates string

// The gates.
const (
	Auto   Gates = "auto"   // it opens when the wave has passed
	Manual Gates = "manual" // an operator resumes the campaign
)

// Spec is a campaign as an operator writes it.
type Spec struct {
	Name        string        `yaml:"name" json:"name"`
	Choose      Choice        `yaml:"choose" json:"choose"`
	Canary      Canary        `yaml:"canary" json:"canary"`
	Waves       []Share       `yaml:"waves" json:"waves,omitempty"` // of all chosen, each with what came before it
	PerMinute   int           `yaml:"per_minute" json:"perMinute,omitempty"`
	MaxInFlight int           `yaml:"max_in_flight" json:"maxInFlight,omitempty"`
	Gates       Gates         `yaml:"gates" json:"gates,omitempty"`
	Soak        time.Duration `yaml:"soak" json:"soak,omitempty"`
	// VerifyWithin is how long a device may take from the vend to the proof:
	// it was online at the vend, so silence is a failure.
	VerifyWithin time.Duration `yaml:"verify_within" json:"verifyWithin,omitempty"`
	Abort        Abort         `yaml:"abort" json:"abort"`
	Window       Window        `yaml:"window" json:"window"`
	Deadline     time.Time     `yaml:"deadline" json:"deadline,omitzero"`
}

// Defaults of a Spec.
const (
	DefaultPerMinute    = 120
	DefaultMaxInFlight  = 500
	DefaultVerifyWithin = time.Hour
	DefaultAtLeast      = 3
)

// WithDefaults returns the spec with what was left out.
func (s Spec) WithDefaults() Spec {
	setDefault(&s.Choose.Order, ByExpiry)
	setDefault(&s.PerMinute, DefaultPerMinute)
	setDefault(&s.MaxInFlight, DefaultMaxInFlight)
	setDefault(&s.Gates, Auto)
	setDefault(&s.VerifyWithin, DefaultVerifyWithin)
	setDefault(&s.Abort.Failed, Share{Percent: 5})
	setDefault(&s.Abort.AtLeast, DefaultAtLeast)
	setDefault(&s.Canary.Pass, Share{Percent: 90})
	if len(s.Waves) == 0 || s.Waves[len(s.Waves)-1] != (Share{Percent: 100}) {
		s.Waves = append(slices.Clone(s.Waves), Share{Percent: 100})
	}
	return s
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

var campaignName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Validate reports the first thing in a spec with defaults that makes no sense.
func (s Spec) Validate() error {
	switch {
	case !campaignName.MatchString(s.Name):
		return fmt.Errorf("name %.80q: must be 1 to 64 small letters, digits, dots, hyphens and underscores", s.Name)
	case s.PerMinute < 1 || s.PerMinute > 1_000_000:
		return fmt.Errorf("per_minute: %d is not from 1 to 1,000,000", s.PerMinute)
	case s.MaxInFlight < 1:
		return fmt.Errorf("max_in_flight: %d is less than 1", s.MaxInFlight)
	case s.Gates != Auto && s.Gates != Manual:
		return fmt.Errorf("gates: %.40q is neither auto nor manual", s.Gates)
	case s.Soak < 0 || s.VerifyWithin <= 0:
		return errors.New("soak must not be negative, and verify_within more than zero")
	case s.Abort.AtLeast < 1:
		return fmt.Errorf("abort.at_least: %d is less than 1", s.Abort.AtLeast)
	}
	if err := s.Choose.validate(); err != nil {
		return fmt.Errorf("choose: %w", err)
	}
	for i := range s.Waves[:len(s.Waves)-1] {
		if s.Waves[i].Percent > 0 && s.Waves[i+1].Percent > 0 && s.Waves[i].Percent >= s.Waves[i+1].Percent {
			return fmt.Errorf("waves: %s does not come before %s", s.Waves[i], s.Waves[i+1])
		}
	}
	_, err := s.Window.parse()
	return err
}

func (c Choice) validate() error {
	none := !c.All && c.ExpiringWithin == 0 && c.IssuedBy == "" && c.Key == "" && len(c.Attributes) == 0 && len(c.Names) == 0
	switch {
	case none:
		return errors.New("nothing is chosen: say all, expiring_within, issued_by, key, attributes or names")
	case c.ExpiringWithin < 0:
		return errors.New("expiring_within must not be negative")
	case c.Order != ByExpiry && c.Order != Randomly:
		return fmt.Errorf("order: %.40q is neither expiry nor random", c.Order)
	}
	for _, name := range slices.Concat(c.Names, c.Except) {
		if _, err := registry.ParseDeviceID(name); err != nil {
			return err
		}
	}
	_, err := c.attributes()
	return err
}

// State is where a campaign stands.
type State string

// The states of a campaign.
const (
	Running  State = "running"
	AtGate   State = "gate"     // a wave has passed, and an operator must let the next begin
	Paused   State = "paused"   // by an operator, or because of a failure on our side
	Stopped  State = "stopped"  // of AutoName: too many devices failed, and an operator must resume it
	Aborted  State = "aborted"  // too many devices failed
	Canceled State = "canceled" // by an operator
	Finished State = "finished"
)

// Ended reports whether nothing more will happen.
func (s State) Ended() bool { return s == Aborted || s == Canceled || s == Finished }

// Campaign is a spec that was applied.
type Campaign struct {
	Spec
	State   State
	Why     string // why it is in that state, where somebody wants to know
	Devices int    // how many were chosen
	Wave    int    // the one that is let in now; 0 is the canary where there is one
	By      string // who applied it
	Applied time.Time
	Ended   time.Time
	Resumed time.Time // by an operator, the last time
	Version int64     // of the store: what Save compares
	History []Change  // the store's, the oldest first
	Acts    string    // who makes the change that is saved; empty: the program
}

// Change is what a campaign became, when, and by whom.
type Change struct {
	At    time.Time `json:"at"`
	State State     `json:"state"`
	Wave  int       `json:"wave"`
	Why   string    `json:"why,omitempty"`
	By    string    `json:"by,omitempty"` // empty: the program
}

// OpenedBy returns who let a wave begin: whoever applied the campaign, whoever
// opened the gate before the wave, or nobody.
func (c Campaign) OpenedBy(wave int) string {
	if wave == 0 {
		return c.By
	}
	for _, change := range c.History {
		if change.State == Running && change.Wave == wave {
			return change.By
		}
	}
	return ""
}

// Standing is where a device stands in a campaign.
type Standing string

// The standings of a device.
const (
	Pending Standing = "pending" // it was not let in yet
	Added   Standing = "added"   // it has its job, or waits for it
	Vended  Standing = "vended"
	Proven  Standing = "proven" // and soaks
	Passed  Standing = "passed" // proven, and the soak is over
	Failed  Standing = "failed"
	Skipped Standing = "skipped" // blocked, or removed, or in no need of it, when its turn came
	Late    Standing = "late"    // not heard of until the deadline; nothing is taken from it
)

// InProgress reports whether a device has been let in and has not come to its
// end.
func (s Standing) InProgress() bool { return s == Added || s == Vended || s == Proven }

// Member is a device in a campaign.
type Member struct {
	Device   registry.DeviceID
	Place    int // in the order of the campaign, from 0
	Wave     int
	Standing Standing
	Why      string
	Zone     string    // of its clock
	Added    time.Time // when it was let in
	Since    time.Time // of its standing
	Before   int64     // its newest rotation when it was let in
	Expires  time.Time // of AutoName: when the certificate ends that it shall replace
	Next     time.Time // when another campaign let it in after it had come so far in this one; zero: none, or not asked
}

// Sight is a member with what has become of its rotation.
type Sight struct {
	Member
	Rotation rotation.Rotation  // the newest since Before; zero: none
	Job      protocol.JobStatus // of its newest execution since it was let in; empty: none
	JobAt    time.Time          // since when
	LastSeen certificate.ID     // what it was seen on last
	SeenAt   time.Time
	Turn     Turn
	Listens  time.Time // since when anybody could have been seen; zero: always
	Grouped  bool      // it is in the rotation group
	Asked    bool      // and waits for its job, or has one that has not ended
	Rotated  bool      // a rotation of it was proven or acked since it was let in, which may be one that was open before
	Wanted   bool      // another campaign that goes on has let it in, and waits for it
	Blocked  bool
	Removed  bool // it is not in the registry any more
}

// Turn is the place of a member among those to be looked at.
type Turn struct {
	Look  int64 // grows with when; the store's own
	Place int
}

// Noted is a member that was looked at: where it stands, and when it is to be
// looked at again unless something becomes of it before.
type Noted struct {
	Member
	Turn Turn      // by which it was looked at
	Next time.Time // zero: in the next round
}

// Tally counts members by wave and standing.
type Tally map[int]map[Standing]int

// Store keeps campaigns. Methods are safe for concurrent use.
type Store interface {
	// Running returns the campaigns that have not ended, in the order in which
	// they were applied.
	Running(context.Context) ([]Campaign, error)
	// Save writes a campaign's state, wave and why, if it is still as it was
	// read; ok is false if it is not, and nothing was written then.
	Save(context.Context, Campaign) (ok bool, err error)
	// Tally counts a campaign's members.
	Tally(ctx context.Context, name string) (Tally, error)
}

// Roll keeps the members of campaigns. Methods are safe for concurrent use.
type Roll interface {
	// InProgress returns what can be seen of the members that have been let in
	// and have not come to their end, by place, after one: at most limit.
	InProgress(ctx context.Context, name string, after, limit int) ([]Sight, error)
	// Take lets in at most so many pending members up to a wave, by place, whose
	// clocks are in one of the zones (nil: any), and returns them. It is durable
	// before anything is done for them. Of AutoName, those whose certificates end
	// first come first, and who needs it no more is Skipped.
	Take(ctx context.Context, name string, wave int, zones []string, limit int) ([]Member, error)
	// Mark writes what was found out about members, in one commit. A member
	// that something has become of since it was looked at is looked at again.
	Mark(ctx context.Context, name string, found []Noted) error
	// Zones returns the zones of a campaign's pending members.
	Zones(ctx context.Context, name string) ([]string, error)
}

// Watch tells which members are to be looked at. Its cost follows how many
// these are. Methods are safe for concurrent use.
type Watch interface {
	// Due returns what can be seen of the members in progress whose time to be
	// looked at has come, or of whose rotation, execution, registration or use
	// of certificates something has become; after one turn, at most limit.
	Due(ctx context.Context, name string, now time.Time, after Turn, limit int) ([]Sight, error)
	// Wake has devices looked at, in whatever campaign they are.
	Wake(ctx context.Context, devices []registry.DeviceID) error
	// Overdue counts, by wave, the members that were let in before, or as far
	// ahead of now as that lies behind, and have not been heard of. Who waits for
	// its job, or was given or has begun it later than that, is none of them, and
	// nobody is while the job is canceled.
	Overdue(ctx context.Context, name string, before time.Time) (map[int]int, error)
}
