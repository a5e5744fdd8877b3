package control

import (
	"net/http"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// Explanation is what requests of a device would meet now.
type Explanation struct {
	Device      string    `json:"device"`
	Rules       []Finding `json:"rules"`       // in the order in which they are asked
	Answers     []Answer  `json:"answers"`     // to each request that the device could make
	Retirements []Outlook `json:"retirements"` // those that are not done
}

// Finding is what one rule says.
type Finding struct {
	Rule        string          `json:"rule"`
	Certificate certificate.ID  `json:"certificateId,omitempty"`
	Passes      bool            `json:"passes"`
	Reason      protocol.Reason `json:"reason,omitempty"` // with which it refuses
	Says        string          `json:"says"`
}

// Answer is what a request would be answered.
type Answer struct {
	Action   protocol.Action `json:"action"`
	Over     certificate.ID  `json:"over,omitempty"` // the certificate of the connection
	With     string          `json:"with,omitempty"` // a get: "new key", "open key" or "package"
	Accepted bool            `json:"accepted"`
	Reason   protocol.Reason `json:"reason,omitempty"`
	Says     string          `json:"says,omitempty"`    // why it is refused
	Effects  []string        `json:"effects,omitempty"` // what it would bring about
}

// Outlook is a retirement that is not done, and what the one rule says of it
// now, whether it is due or not.
type Outlook struct {
	Certificate certificate.ID   `json:"certificateId"`
	Rotation    int64            `json:"rotation"`
	Mode        certificate.Mode `json:"mode"`
	Due         time.Time        `json:"due"`
	Allowed     bool             `json:"allowed"`
	Why         string           `json:"why,omitempty"` // why not
}

func (s *Server) explainDevice(r *http.Request) (any, error) {
	id, err := registry.ParseDeviceID(r.PathValue("name"))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	action := protocol.Action(r.URL.Query().Get("action"))
	if action != "" && action != protocol.Get && action != protocol.Ack {
		return nil, refuse(http.StatusBadRequest, "action %.40q: is neither get nor ack", action)
	}
	e, err := s.Explain(r.Context(), id, action)
	if err != nil {
		return nil, err
	}
	return Explanation{
		Device: string(e.Device), Rules: each(e.Findings, findingView), Answers: each(e.Answers, answerView),
		Retirements: each(e.Retirements, outlookView),
	}, nil
}

func findingView(f vending.Finding) Finding {
	return Finding{Rule: f.Rule, Certificate: f.Certificate, Passes: f.Refusal == "", Reason: f.Refusal, Says: f.Says}
}

func answerView(a vending.Answer) Answer {
	view := Answer{Action: a.Action, Over: a.Certificate, Accepted: a.Refusal == nil, Effects: a.Effects}
	switch {
	case a.Action == protocol.Ack:
	case a.Package:
		view.With = "package"
	case a.Key != "":
		view.With = "open key"
	default:
		view.With = "new key"
	}
	if a.Refusal != nil {
		view.Reason, view.Says, view.Effects = a.Refusal.Reason, a.Refusal.Words(), nil
	}
	return view
}

func outlookView(o vending.Outlook) Outlook {
	return Outlook{
		Certificate: o.Certificate, Rotation: o.Rotation, Mode: o.Mode, Due: o.Due, Allowed: o.Kept == "", Why: o.Kept,
	}
}
