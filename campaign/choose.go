package campaign

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Candidate is a device as a choice looks at it.
type Candidate struct {
	Device     registry.DeviceID
	Blocked    bool
	Attributes map[string]string // those that Attributes names
	Active     []Active          // its ACTIVE certificates
	Open       rotation.State    // of its open rotation; empty: none
	Grouped    bool              // it is in the rotation group already
	Asked      bool              // and waits for its job, or has one that has not ended
	Campaign   string            // that has not ended, and that it is in; AutoName only once it was let in
	Pending    bool              // it was not let into that yet
	Waits      bool              // it is in AutoName, and was not let in yet
	Began      time.Time         // when Open was vended, or opened
	Policies   []string          // of its ACTIVE certificate with the most, where these are more than ten
	Groups     int               // of another place, where it is in as many as it may be
}

// Active is an ACTIVE certificate of a candidate.
type Active struct {
	ID        certificate.ID
	Issuer    string
	CA        certificate.ID // of this world, that issued it; empty: another's
	KeyType   string
	NotBefore time.Time
	NotAfter  time.Time
	Seen      time.Time
	Unheard   bool // a rotation has vended it, and the device was not heard of with it
	Shared    bool
}

// current returns the certificate that the device uses, as far as anybody
// knows: the one it was seen on last, or else the one that lasts longest of
// those that it may be taken to have.
func (c Candidate) current() (Active, bool) {
	if len(c.Active) == 0 {
		return Active{}, false
	}
	return slices.MaxFunc(c.Active, func(a, b Active) int {
		return cmp.Or(a.Seen.Compare(b.Seen), cmp.Compare(a.heard(), b.heard()), a.NotAfter.Compare(b.NotAfter))
	}), true
}

// heard is 1 for a certificate that the device may be taken to have, and 0 for any
// other.
func (a Active) heard() int {
	if a.Unheard {
		return 0
	}
	return 1
}

// Attributes returns the attributes that must be known of candidates.
func (s Spec) Attributes() []string {
	var names []string
	for _, pair := range s.Choose.Attributes {
		name, _, _ := strings.Cut(pair, "=")
		names = append(names, name)
	}
	for _, name := range []string{s.Canary.Strata, s.Window.Zone} {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c Choice) attributes() (map[string]string, error) {
	wanted := map[string]string{}
	for _, pair := range c.Attributes {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("attributes: %.80q must be name=value", pair)
		}
		wanted[name] = value
	}
	return wanted, nil
}

// chooser decides about one candidate after another.
type chooser struct {
	spec          Spec
	now           time.Time
	names, except map[registry.DeviceID]bool
	attributes    map[string]string
}

func newChooser(s Spec, now time.Time) (*chooser, error) {
	attributes, err := s.Choose.attributes()
	return &chooser{spec: s, now: now, names: set(s.Choose.Names), except: set(s.Choose.Except), attributes: attributes}, err
}

func set(names []string) map[registry.DeviceID]bool {
	all := make(map[registry.DeviceID]bool, len(names))
	for _, name := range names {
		all[registry.DeviceID(name)] = true
	}
	return all
}

// matches reports whether the choice means this device.
func (ch *chooser) matches(c Candidate) bool {
	choice := ch.spec.Choose
	for name, value := range ch.attributes {
		if c.Attributes[name] != value {
			return false
		}
	}
	current, has := c.current()
	switch {
	case ch.except[c.Device], len(ch.names) > 0 && !ch.names[c.Device]:
		return false
	case choice.ExpiringWithin > 0 && (!has || current.NotAfter.Sub(ch.now) > choice.ExpiringWithin):
		return false
	case choice.IssuedBy != "" && (!has || !current.isOf(choice.IssuedBy)):
		return false
	case choice.Key != "" && (!has || !strings.EqualFold(current.KeyType, choice.Key)):
		return false
	}
	return ch.sampled(c.Device)
}

// caID is the id of a CA, or as much of one as tables show.
var caID = regexp.MustCompile(`^[0-9a-f]{12,64}$`)

// isOf reports whether an issuer is the certificate's. It is named by its whole
// name or its common name, or where it is a CA of this world by its id, which
// tells two of one name apart.
func (a Active) isOf(issuer string) bool {
	if caID.MatchString(issuer) && strings.HasPrefix(string(a.CA), issuer) {
		return true
	}
	return a.Issuer == issuer || slices.Contains(strings.Split(a.Issuer, ","), "CN="+issuer)
}

// sampled draws the same devices for the same campaign whenever it is asked.
func (ch *chooser) sampled(id registry.DeviceID) bool {
	percent := ch.spec.Choose.Sample.Percent
	return percent == 0 || float64(draw(ch.spec.Name, id)%1_000_000) < percent*10_000
}

func draw(campaign string, id registry.DeviceID) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(campaign + "\n" + string(id))) // never fails
	x := h.Sum64()
	x ^= x >> 33 // FNV's low bits follow the last letters
	x *= 0xff51afd7ed558ccd
	return x ^ x>>33
}

// skip says why a device that is meant cannot take part, or returns nothing.
func skip(c Candidate) string {
	switch {
	case c.Blocked:
		return "blocked"
	case len(c.Active) == 0:
		return "has no active certificate"
	case c.Campaign != "":
		return "is in campaign " + c.Campaign
	case c.Open != "":
		return "has a rotation that is " + string(c.Open)
	case c.Asked:
		return "is in the rotation group already"
	}
	return ""
}

// chosen is a device that takes part, with what its place depends on.
type chosen struct {
	device  registry.DeviceID
	expires time.Time
	seen    time.Time
	zone    string
	stratum string
}

// arrange gives the devices their places and their waves: the canary first,
// each wave in the order of the campaign.
func (s Spec) arrange(devices []chosen) []Member {
	slices.SortFunc(devices, func(a, b chosen) int {
		if s.Choose.Order == Randomly {
			return cmp.Or(cmp.Compare(draw(s.Name, a.device), draw(s.Name, b.device)), cmp.Compare(a.device, b.device))
		}
		return cmp.Or(a.expires.Compare(b.expires), cmp.Compare(a.device, b.device))
	})
	if n := s.Choose.Sample.Count; n > 0 && n < len(devices) {
		devices = devices[:n]
	}
	size := s.Canary.Size.Of(len(devices))
	if s.hasCanary() {
		devices = s.canaryFirst(devices, size)
	}
	members := make([]Member, len(devices))
	for i, d := range devices {
		members[i] = Member{Device: d.device, Place: i, Wave: s.waveOf(i, size, len(devices)), Standing: Pending, Zone: d.zone}
	}
	closeUp(members)
	return members
}

// closeUp numbers the waves anew without those that nobody is in, as behind a canary
// that is larger than the first of them: no gate stands before nobody.
func closeUp(members []Member) {
	wave, was := -1, -1
	for i := range members {
		if members[i].Wave != was {
			wave, was = wave+1, members[i].Wave
		}
		members[i].Wave = wave
	}
}

// waveOf returns the wave of a place. Where there is a canary it is wave 0, and
// the others follow.
func (s Spec) waveOf(place, canary, all int) int {
	first := 0
	if s.hasCanary() {
		if place < canary {
			return 0
		}
		first = 1
	}
	for i, wave := range s.Waves {
		if place < wave.Of(all) {
			return first + i
		}
	}
	return first + len(s.Waves) - 1
}

// canaryFirst moves the canary's devices to the front: one of each stratum
// after the other, and in each those that were seen last, because a canary
// that sleeps shows nothing.
func (s Spec) canaryFirst(devices []chosen, size int) []chosen {
	strata := map[string][]int{}
	for i, d := range devices {
		strata[d.stratum] = append(strata[d.stratum], i)
	}
	var names []string
	for name, places := range strata {
		names = append(names, name)
		slices.SortStableFunc(places, func(a, b int) int { return devices[b].seen.Compare(devices[a].seen) })
	}
	slices.Sort(names)
	picked := map[int]bool{}
	front := make([]chosen, 0, len(devices))
	for turn := 0; len(front) < size; turn++ {
		for _, name := range names {
			if turn < len(strata[name]) && len(front) < size {
				picked[strata[name][turn]] = true
				front = append(front, devices[strata[name][turn]])
			}
		}
	}
	for i, d := range devices {
		if !picked[i] {
			front = append(front, d)
		}
	}
	return front
}
