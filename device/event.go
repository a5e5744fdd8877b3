package device

import (
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// EventKind says what happened.
type EventKind string

// What happens to a device.
const (
	Connected          EventKind = "connected"           // with the certificate in use
	Disconnected       EventKind = "disconnected"        // Err says why
	JobReceived        EventKind = "job received"        // a rotation is asked for
	JobIgnored         EventKind = "job ignored"         // it asks for something else
	RenewalDue         EventKind = "renewal due"         // the age of CertificateID asks for a rotation
	KeyMade            EventKind = "key made"            // and durable
	Asked              EventKind = "asked"               // a get or an ack went out
	Waiting            EventKind = "waiting"             // Err says why, Pause for how long
	CertificateStored  EventKind = "certificate stored"  // durable as the candidate
	CandidateConnected EventKind = "candidate connected" // the broker took it
	JobReported        EventKind = "job reported"        // Err is set if that did not succeed
	Switched           EventKind = "switched"            // Current is the candidate; the old pair is kept for the time being
	Acknowledged       EventKind = "acknowledged"        // the vendor took the ack
	Promoted           EventKind = "promoted"            // the old pair is gone; Err is set where no ack was taken
	GivenUp            EventKind = "given up"            // the candidate is gone, Current is the old pair; Err says why
	DirectoryTrouble   EventKind = "directory trouble"   // the work goes on in spite of it; Err says what is wrong
)

// Event is one thing that happened. It holds no secret; fields that say
// nothing about the kind are zero.
type Event struct {
	Time          time.Time
	Kind          EventKind
	Action        protocol.Action
	Job           string
	CertificateID string
	Pause         time.Duration
	Err           error
}

func (a *Agent) tell(e Event) {
	e.Time = a.cfg.Now()
	a.cfg.Event(e)
}
