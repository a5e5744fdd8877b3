package standalone

import (
	"strings"

	"github.com/certvendor/certvendor/protocol"
)

// thingRoot is the template of the topics that AWS IoT keeps for one thing
// (docs.aws.amazon.com/iot/latest/developerguide/reserved-topics.html).
const thingRoot = "$aws/things/" + protocol.ThingName + "/"

// nextJob stands, as a job id, for the first pending execution.
const nextJob = "$next"

// jobVerb is the last level of a job request's topic.
type jobVerb string

const (
	jobList      jobVerb = "get" // without a job id
	jobStartNext jobVerb = "start-next"
	jobDescribe  jobVerb = "get" // with one
	jobUpdate    jobVerb = "update"
)

// jobRequest is the topic of a job request, taken apart.
type jobRequest struct {
	topic  string
	device string
	jobID  string // empty for get and start-next
	verb   jobVerb
}

// parseJobTopic reports false for any topic that is not exactly a job
// request's; device and job id are whatever stands in the topic, unchecked.
func parseJobTopic(topic string) (jobRequest, bool) {
	l := strings.Split(topic, "/")
	if len(l) < 5 || l[0] != "$aws" || l[1] != "things" || l[2] == "" || l[3] != "jobs" {
		return jobRequest{}, false
	}
	r := jobRequest{topic: topic, device: l[2], verb: jobVerb(l[len(l)-1])}
	switch {
	case len(l) == 5 && (r.verb == jobList || r.verb == jobStartNext):
		return r, true
	case len(l) == 6 && l[4] != "" && (r.verb == jobDescribe || r.verb == jobUpdate):
		r.jobID = l[4]
		return r, true
	}
	return jobRequest{}, false
}

func (r jobRequest) accept(reply any) (topic string, payload []byte) {
	return r.topic + "/accepted", protocol.Encode(reply)
}

func (r jobRequest) refuse(refusal protocol.JobRefusal) (topic string, payload []byte) {
	return r.topic + "/rejected", protocol.Encode(refusal)
}
