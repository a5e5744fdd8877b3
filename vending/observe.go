package vending

import (
	"context"
	"errors"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
)

// observe is answer for a daemon that answers nothing: it says what the answer
// would be, and what would come of it. It is reached by the same Heard, Get and
// Ack, on ports that keep to themselves what they are asked to change, with the
// request as it came. The sighting alone is recorded, and gets are counted.
func (h *Handler) observe(ctx context.Context, action protocol.Action, m Message) (o Outcome) {
	o = outcomeOf(action, m, "")
	o.Observed = true
	defer func() {
		if p := recover(); p != nil {
			o = rejected(o, panicked(p))
		}
	}()
	if err := h.Vendor.Heard(ctx, m.Caller); err != nil {
		return rejected(o, asError(err))
	}
	s := h.Vendor.stage(o.Device)
	dry := s.vendor("")
	dry.Limits, dry.parse, dry.verify = h.Vendor.Limits, h.Vendor.parse, h.Vendor.verify
	at := protocol.Address{Device: string(o.Device), Action: action, Certificate: string(m.Caller.Certificate)}
	var err error
	if action == protocol.Ack {
		err = observeAck(ctx, dry, m, at)
	} else {
		err = observeGet(ctx, dry, m, at, &o.Certificate)
	}
	o.Effects = s.effects
	var unfinished *Unfinished
	if err != nil && !errors.As(err, &unfinished) {
		return rejected(o, asError(err))
	}
	o.Accepted = true
	return o
}

func observeAck(ctx context.Context, dry *Vendor, m Message, at protocol.Address) error {
	request, err := protocol.DecodeAck(m.Payload, at)
	if err != nil {
		return explain(protocol.Malformed, err.Error())
	}
	_, _, err = dry.Ack(ctx, m.Caller, request)
	return err
}

// observeGet forgets the id of the certificate that a get would be answered
// with, where it is a new one: the one that is made here is nobody's.
func observeGet(ctx context.Context, dry *Vendor, m Message, at protocol.Address, id *certificate.ID) error {
	request, err := protocol.DecodeGet(m.Payload, at)
	if err != nil {
		return explain(protocol.Malformed, err.Error())
	}
	if _, err = dry.Get(ctx, m.Caller, request); err == nil {
		*id = ""
	}
	return err
}
