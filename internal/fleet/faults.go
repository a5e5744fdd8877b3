package fleet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is something that goes wrong with a device or its network.
type Fault string

// The faults.
const (
	PowerCut         Fault = "power-cut"         // at some step; the disk is kept
	Disconnect       Fault = "disconnect"        // the TCP connections drop, at some moments
	LostReply        Fault = "lost-reply"        // the vendor answered the get, and the answer is lost
	LostAck          Fault = "lost-ack"          // the ack or its answer is lost
	LateAck          Fault = "late-ack"          // the ack arrives late
	AckAfterTTL      Fault = "ack-after-ttl"     // not a sign of life until the rotation may be stale
	AckOnOld         Fault = "ack-on-old"        // it first acks over the old connection
	DuplicateRequest Fault = "duplicate-request" // the get comes again, at once and later
	Dark             Fault = "dark"              // never seen again after the switch
	SlowReader       Fault = "slow-reader"       // it takes in a few octets at a time
	Garbage          Fault = "garbage"           // it sends noise first
	ClockSkew        Fault = "clock-skew"        // its clock is wrong
	// JobFailed is firmware that cannot rotate: it reports its job FAILED and does
	// nothing. It is no part of "all", because such a device never rotates.
	JobFailed Fault = "job-failed"
)

// AllFaults lists the faults, in the order in which a plan draws them.
func AllFaults() []Fault {
	return []Fault{
		PowerCut, Disconnect, LostReply, LostAck, LateAck, AckAfterTTL,
		AckOnOld, DuplicateRequest, Dark, SlowReader, Garbage, ClockSkew,
	}
}

// drawn lists what a plan draws, in its order.
func drawn() []Fault { return append(AllFaults(), JobFailed) }

// Faults says how likely each fault is for a device, from 0 to 1.
type Faults map[Fault]float64

// ParseFaults reads name=probability,... An empty text is no fault; "all"
// stands for every one that is not named.
func ParseFaults(text string) (Faults, error) {
	const every = "all"
	faults := Faults{}
	if text == "" {
		return faults, nil
	}
	for _, part := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fault := Fault(name)
		if name != every && !slices.Contains(drawn(), fault) {
			return nil, fmt.Errorf("fault %.40q: is none of %v, nor all", name, drawn())
		}
		if _, twice := faults[fault]; twice {
			return nil, fmt.Errorf("fault %s: is given twice", fault)
		}
		p, err := strconv.ParseFloat(value, 64)
		if err != nil || !(p >= 0 && p <= 1) {
			return nil, fmt.Errorf("fault %s: %.40q is not a probability from 0 to 1", fault, value)
		}
		faults[fault] = p
	}
	p, all := faults[every]
	delete(faults, every)
	for _, fault := range AllFaults() {
		if _, named := faults[fault]; all && !named {
			faults[fault] = p
		}
	}
	return faults, nil
}

// Step is a moment in a device's rotation.
type Step string

// The steps, in their order.
const (
	StepConnected   Step = "connected"    // with the certificate in use
	StepJob         Step = "job received" // and in progress
	StepKey         Step = "key made"     // for an agent: and durable
	StepGet         Step = "get sent"     // about to leave
	StepGetAnswered Step = "get answered" // the answer is on its way
	StepStored      Step = "stored"       // the new pair is durable
	StepSwitched    Step = "switched"     // connected with the new certificate
	StepReported    Step = "job reported" // or tried to
	StepAck         Step = "ack sent"     // about to leave
	StepAckAnswered Step = "ack answered" // the answer is on its way
	StepAcked       Step = "ack accepted" // and the device knows
)

func steps() []Step {
	return []Step{
		StepConnected, StepJob, StepKey, StepGet, StepGetAnswered, StepStored,
		StepSwitched, StepReported, StepAck, StepAckAnswered, StepAcked,
	}
}

// Moment is some time after the device first came to a step.
type Moment struct {
	Step  Step
	After time.Duration
}

// Plan is what will go wrong with one device. Its zero value is nothing. Each
// happens once; what is planned for a step that the device never comes to does
// not happen.
type Plan struct {
	PowerCut    *Moment
	PowerAway   time.Duration // how long the device is without
	Disconnects []Moment
	LostReply   bool
	LostAck     bool
	AckLost     bool          // for LostAck: the ack itself is lost, not its answer
	LateAck     time.Duration // how late
	AckAfterTTL bool
	AckOnOld    bool
	Duplicate   time.Duration // when the later duplicate comes
	Dark        bool
	SlowReader  int    // octets a second
	Garbage     uint64 // what the noise is drawn from
	ClockSkew   time.Duration
	ClockSet    time.Duration // how long until the clock is right; 0: it stays wrong
	JobFailed   bool
}

// onTheWire reports whether any of it happens to the network. A device that loses
// its power loses that, too.
func (p Plan) onTheWire() bool {
	return p.PowerCut != nil || p.Dark || len(p.Disconnects) > 0 || p.LostReply || p.LostAck || p.LateAck > 0 || p.SlowReader > 0
}

// Plans draws the plans of n devices. They depend on the arguments alone, and
// the plan of a device neither on how many others there are nor on how likely
// the other faults are.
func Plans(seed uint64, n int, faults Faults) []Plan {
	plans := make([]Plan, n)
	for i := range plans {
		for n, fault := range drawn() {
			plans[i].draw(fault, faults[fault], dice{rand.New(rand.NewPCG(seed, uint64(i)<<8|uint64(n)))})
		}
	}
	return plans
}

// draw decides about one fault.
func (p *Plan) draw(fault Fault, likely float64, d dice) {
	if d.Float64() >= likely {
		return
	}
	switch fault {
	case PowerCut:
		p.PowerCut, p.PowerAway = d.moment(steps(), 20*time.Millisecond), d.between(0, 300*time.Millisecond)
	case Disconnect:
		for range 1 + d.IntN(2) {
			p.Disconnects = append(p.Disconnects, *d.moment(steps(), 30*time.Millisecond))
		}
	case LostReply:
		p.LostReply = true
	case LostAck:
		p.LostAck, p.AckLost = true, d.IntN(2) == 0
	case LateAck:
		p.LateAck = d.between(200*time.Millisecond, 2*time.Second)
	case AckAfterTTL:
		p.AckAfterTTL = true
	case AckOnOld:
		p.AckOnOld = true
	case DuplicateRequest:
		p.Duplicate = d.between(100*time.Millisecond, 1500*time.Millisecond)
	case Dark:
		p.Dark = true
	case SlowReader:
		p.SlowReader = 8<<10 + d.IntN(24<<10)
	case Garbage:
		p.Garbage = d.Uint64() | 1
	case ClockSkew:
		p.skew(d)
	case JobFailed:
		p.JobFailed = true
	}
}

// skew sets the clock wrong: by years until it is set, as one that forgot the
// time, or by days and for good, as one that nobody ever sets.
func (p *Plan) skew(d dice) {
	switch d.IntN(3) {
	case 0:
		p.ClockSkew, p.ClockSet = -d.between(24*time.Hour, 20*365*24*time.Hour), d.between(300*time.Millisecond, 2*time.Second)
	case 1:
		p.ClockSkew, p.ClockSet = d.between(365*24*time.Hour, 20*365*24*time.Hour), d.between(300*time.Millisecond, 2*time.Second)
	default:
		p.ClockSkew = d.between(time.Minute, 10*24*time.Hour)
	}
}

// dice is a source of chance.
type dice struct{ *rand.Rand }

func (d dice) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.Int64N(int64(most-least)))
}

// moment is at a step, or with the same chance up to so long after one.
func (d dice) moment(steps []Step, most time.Duration) *Moment {
	m := &Moment{Step: steps[d.IntN(len(steps))]}
	if d.IntN(2) == 0 {
		m.After = d.between(0, most)
	}
	return m
}
