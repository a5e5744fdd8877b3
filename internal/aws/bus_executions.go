package aws

import (
	"encoding/json"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/registry"
)

// executionFilter matches what AWS IoT tells of executions that have ended,
// where setup has switched that on. Devices cannot publish there.
const executionFilter = "$aws/events/jobExecution/#"

// Ended says that AWS IoT told of the end of a thing's execution of a job. Which
// execution of the job it was, it does not tell.
type Ended struct {
	Job    string // its id at AWS
	Device registry.DeviceID
}

// HearEnded names who hears of executions that have ended. It comes before
// Start, and what it names must not block.
func (b *MQTTBus) HearEnded(hear func(Ended)) { b.ended = hear }

// takeExecution hands on that an execution has ended. Events are hints: one too
// many is let go, and repeated ones do no harm.
func (b *MQTTBus) takeExecution(_ *link, m mqtt.Message) {
	defer m.Ack()
	if !b.enter() {
		return
	}
	defer b.leave()
	var e struct {
		EventType string `json:"eventType"`
		JobID     string `json:"jobId"`
		ThingARN  string `json:"thingArn"`
	}
	if json.Unmarshal(m.Payload(), &e) != nil || e.EventType != executionEvents || e.JobID == "" {
		b.counts.strangers.Add(1)
		return
	}
	device, err := registry.ParseDeviceID(string(thingOf(e.ThingARN)))
	if err != nil || b.ended == nil {
		b.counts.strangers.Add(1)
		return
	}
	b.counts.executions.Add(1)
	b.ended(Ended{Job: e.JobID, Device: device})
}
