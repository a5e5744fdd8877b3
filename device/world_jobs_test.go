package device

import (
	"errors"
	"slices"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/protocol"
)

func (w *world) answerJob(topic, suffix string, payload []byte) (string, any) {
	switch {
	case w.noJobs:
		return "", nil
	case suffix == "$next/get":
		return w.answerLook(topic, payload)
	case suffix == "start-next":
		if w.dropStart--; w.dropStart >= 0 {
			return "", nil
		}
		var body protocol.JobStartNext
		_ = protocol.Decode(payload, &body)
		if w.job != nil {
			w.job.Status = protocol.JobInProgress
		}
		return topic + "/accepted", protocol.JobExecutionReply{Execution: w.jobNow(), ClientToken: body.ClientToken}
	}
	var body protocol.JobUpdate
	if err := protocol.Decode(payload, &body); err != nil {
		w.t.Error(err)
	}
	if w.job == nil || suffix != w.job.JobID+"/update" {
		return topic + "/rejected", protocol.JobRefusal{Code: protocol.JobNotFound, ClientToken: body.ClientToken}
	}
	w.updates = append(w.updates, body)
	w.log = append(w.log, string(body.Status))
	w.job = nil
	return topic + "/accepted", protocol.JobUpdateAccepted{ClientToken: body.ClientToken}
}

func (w *world) answerLook(topic string, payload []byte) (string, any) {
	w.looks++
	if w.onLook != nil {
		w.onLook()
	}
	if w.noLook {
		return "", nil
	}
	var body protocol.JobDescribe
	_ = protocol.Decode(payload, &body)
	return topic + "/accepted", protocol.JobExecutionReply{Execution: w.jobNow(), ClientToken: body.ClientToken}
}

// jobNow returns the job as it stands.
func (w *world) jobNow() *protocol.JobExecution {
	if w.job == nil {
		return nil
	}
	now := *w.job
	return &now
}

// cutAt ends the connection at a publish or a subscription to what has this end.
type cutAt struct {
	mqtt.HookBase
	end string
	w   *world
	on  bool
}

func (h *cutAt) ID() string           { return "cut" }
func (h *cutAt) Provides(b byte) bool { return b == mqtt.OnPacketRead }

func (h *cutAt) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	subscribes := slices.ContainsFunc(pk.Filters, func(s packets.Subscription) bool { return strings.HasSuffix(s.Filter, h.end) })
	if h.on && (subscribes || pk.FixedHeader.Type == packets.Publish && strings.HasSuffix(pk.TopicName, h.end)) {
		cl.Stop(errors.New("cut by the test"))
		return pk, packets.ErrRejectPacket
	}
	return pk, nil
}
