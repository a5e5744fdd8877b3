package vending

import (
	"context"
	"errors"
	"slices"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// Ack answers an ack. Spoken over the open rotation's certificate, or with its
// proof, it finishes the rotation: what that replaces is retired by the one
// rule, at once where there is no grace. The second result is the rotation
// that has steps left to be done behind the reply, or nil. Any refusal is an
// *Error and changes nothing of a rotation; what the ack shows, that the device has
// its trust anchors and its new key, is kept. An *Unfinished is no refusal: the
// device is answered OK.
func (v *Vendor) Ack(ctx context.Context, caller Caller, request protocol.AckRequest) (protocol.AckAccepted, *rotation.Rotation, error) {
	ok := protocol.AckAccepted{DeviceID: string(caller.Device), Action: protocol.Ack, Message: "OK"}
	a, err := v.admit(ctx, caller)
	if err != nil {
		return ok, nil, err
	}
	if err := v.approve(ctx, &a, protocol.Ack); err != nil {
		return ok, nil, err
	}
	if err := v.tookAnchors(ctx, caller, request); err != nil {
		return ok, nil, err
	}
	anyRotation := func(rotation.Rotation) bool { return true }
	if a, err = v.awaitLease(ctx, a, anyRotation); err != nil {
		return ok, nil, err
	}
	r := a.history.Current()
	if r == nil {
		return ok, nil, v.ackAgain(ctx, a, request)
	}
	if r.Named, err = namedAtAck(*r, request); err != nil {
		return ok, nil, err
	}
	evidence, err := v.evidence(ctx, a, *r, request)
	if err != nil {
		return ok, nil, err
	}
	if evidence == certificate.Unknown && !r.IsProven() {
		acknowledged, err := v.acknowledge(ctx, *r)
		return ok, &acknowledged, err
	}
	r.AckedAt = v.Now()
	if !r.IsProven() {
		r.ProvenAt, r.Evidence = r.AckedAt, evidence
	}
	finished, owed, err := v.Closer.Finish(ctx, *r, a.history)
	if err != nil {
		return ok, nil, lost(err)
	}
	if err := v.Closer.RetireNow(ctx, owed); err != nil {
		// The rotation is finished all the same; the sweep retires what is due.
		return ok, &finished, &Unfinished{err}
	}
	return ok, &finished, nil
}

// tookAnchors records what the device verifies servers by, whatever becomes of
// the ack: it has that on its disk. Nobody else may say so for it.
func (v *Vendor) tookAnchors(ctx context.Context, caller Caller, request protocol.AckRequest) error {
	if v.Anchors == nil || caller.Certificate == "" || request.TrustAnchorsSHA256 == "" {
		return nil
	}
	if err := v.Anchors.Took(ctx, caller.Device, request.TrustAnchorsSHA256); err != nil {
		return later(0, err)
	}
	return nil
}

// evidence says what shows that the device works on r's certificate: the
// connection where it is known, and only where it is not, a proof.
func (v *Vendor) evidence(ctx context.Context, a admission, r rotation.Rotation, request protocol.AckRequest) (certificate.Evidence, error) {
	switch {
	case !r.IsVended():
		return "", explain(protocol.NotProven, "the rotation has no certificate yet")
	case a.Certificate != "" && a.Certificate == r.Certificate:
		return a.Evidence, nil
	case a.Certificate != "":
		return "", explain(protocol.NotProven, "connect with the new certificate, then ack")
	case request.Proof != "":
		return certificate.Proof, v.verifyProof(ctx, a, r, request)
	case v.config.RejectUnproven:
		return "", explain(protocol.NotProven, "an ack needs a proof here")
	}
	return certificate.Unknown, nil
}

// verifyProof holds a signature against the rotation's certificate. It counts
// as a sighting, because its key is in the device's hands.
func (v *Vendor) verifyProof(ctx context.Context, a admission, r rotation.Rotation, request protocol.AckRequest) error {
	c := a.holding(r.Certificate)
	if c == nil || request.CertificateID != string(r.Certificate) {
		return explain(protocol.NotProven, "the proof is not for the open rotation's certificate")
	}
	parsed, err := c.X509()
	if err != nil {
		return reject(protocol.Internal, err)
	}
	if err := protocol.VerifyProof(parsed.PublicKey, string(a.Device), request.CertificateID, r.Nonce, request.Proof); err != nil {
		return explain(protocol.NotProven, err.Error())
	}
	if r.IsProven() {
		return nil // seen in use, which is worth more
	}
	err = v.seen(ctx, Caller{Device: a.Device, Certificate: r.Certificate, Evidence: certificate.Proof})
	if errors.Is(err, certificate.ErrNotActive) {
		return reject(protocol.NotProven, err)
	}
	if err != nil {
		return later(0, err)
	}
	return nil
}

// acknowledge takes an ack of which nobody knows over which certificate it
// came. It is repeated without effect.
func (v *Vendor) acknowledge(ctx context.Context, r rotation.Rotation) (rotation.Rotation, error) {
	if r.State == rotation.Acknowledged {
		return r, nil
	}
	r, err := v.Closer.Acknowledge(ctx, r)
	if err != nil {
		return r, lost(err)
	}
	return r, nil
}

// ackAgain answers an ack when no rotation is open: OK again over the last
// finished one's certificate, whose first OK may have been lost. The only
// thing it can bring about is that a retirement goes on which had been put off
// because the device had gone back.
func (v *Vendor) ackAgain(ctx context.Context, a admission, request protocol.AckRequest) error {
	last := a.history.LastFinished()
	if last == nil {
		return explain(protocol.NoOpenRotation, "nothing was vended to this device")
	}
	if _, err := namedAtAck(*last, request); err != nil {
		return err
	}
	mine := a.Certificate != "" && a.Certificate == last.Certificate
	if !mine && !v.provesAgain(a, *last, request) {
		return explain(protocol.NoOpenRotation, "the last rotation is over")
	}
	if err := v.Closer.RetireReturned(ctx, a.Device); err != nil {
		return &Unfinished{err}
	}
	return nil
}

// provesAgain reports whether a repeated ack names the certificate that was proven
// by a signature. The signature itself is not verified again, as the nonce is void
// by now: so it has the answer repeated, and shows nothing to the one rule.
func (v *Vendor) provesAgain(a admission, last rotation.Rotation, request protocol.AckRequest) bool {
	return a.Certificate == "" && last.Evidence == certificate.Proof &&
		request.Proof != "" && request.CertificateID == string(last.Certificate)
}

// namedAtAck returns the previous certificate as the ack names it, or else as
// the get did. It is looked up in the list made when the rotation opened, so
// that an ack whose reply was lost may be repeated when that certificate is gone.
func namedAtAck(r rotation.Rotation, request protocol.AckRequest) (certificate.ID, error) {
	if request.PreviousCertificateID == "" {
		return r.Named, nil
	}
	id, err := certificate.ParseID(request.PreviousCertificateID)
	if err != nil || !slices.Contains(r.Held, id) {
		return "", explain(protocol.PreviousNotHeld, "the device did not hold that certificate when the rotation opened")
	}
	return id, nil
}

// Unfinished wraps a failure of what an accepted request left to be done
// behind it. The device's answer is not changed by it.
type Unfinished struct{ Err error }

func (u *Unfinished) Error() string { return "left to the sweep: " + u.Err.Error() }

func (u *Unfinished) Unwrap() error { return u.Err }
