package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/certvendor/certvendor/protocol"
)

// maxUnacked is how many connections with the candidate may end without an ack
// until the old pair is given up nevertheless. The broker took the candidate
// every time, upon which a vendor may take the old certificate away: a device
// whose ack nobody hears must not wait for ever, nor go back.
const maxUnacked = 10

// switchOver connects with the candidate and, over that connection only, ends
// the job and acknowledges. The ack comes last: it takes the device out of the
// group, and with it an execution that has not ended.
func (a *Agent) switchOver(ctx context.Context) error {
	c, err := a.connectCandidate(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	begun := a.store.state.Candidate
	a.tell(Event{Kind: CandidateConnected, Job: begun.Job.ID, CertificateID: begun.CertificateID})
	if err := a.store.cut("candidate connected"); err != nil {
		return err
	}
	if err := a.use(ctx, c); err != nil {
		return err
	}
	candidate := *a.store.state.Candidate
	// A report that does not get through, which is told, must not keep the
	// device from finishing: the next start-next shows the job again.
	_ = a.report(ctx, c, candidate.Job, protocol.JobUpdate{Status: protocol.JobSucceeded})
	if err := a.store.cut("job reported"); err != nil {
		return err
	}
	candidate.Topics = a.topics(ctx, c, candidate, candidate.Unacked)
	return a.finish(ctx, candidate, a.acknowledge(ctx, c, candidate))
}

// use makes the candidate what applications use. It is durable before the ack,
// upon which the vendor takes the old certificate away: by then no application
// may depend on what can be written here. The old pair stays, for the case that
// the broker takes the candidate no more.
func (a *Agent) use(ctx context.Context, c *connection) error {
	if a.store.switched() {
		a.setCurrent() // it may not have been readable at the start
		return nil
	}
	if err := a.join(ctx, c); err != nil {
		return err
	}
	a.obtained = a.moment()
	if err := a.store.switchTo(a.obtained.told); err != nil {
		return err
	}
	a.setCurrent()
	candidate := a.store.state.Candidate
	a.tell(Event{Kind: Switched, Job: candidate.Job.ID, CertificateID: candidate.CertificateID})
	return a.store.cut("switched")
}

// finish gives the old pair up, unless the ack is worth another connection. A
// vendor that knows of no rotation, or cannot see this certificate, will take
// nothing away, and the certificate works: its refusal is returned.
func (a *Agent) finish(ctx context.Context, candidate candidate, unacked error) error {
	refused := isReason(unacked, protocol.NoOpenRotation) || isReason(unacked, protocol.NotProven)
	switch {
	case unacked == nil || refused:
	case ctx.Err() != nil:
		return unacked
	case candidate.Unacked+1 < maxUnacked:
		return errors.Join(unacked, a.store.unacked())
	}
	if err := a.store.cut("acknowledged"); err != nil {
		return err
	}
	if err := a.store.promote(); err != nil {
		return err
	}
	a.setCurrent()
	a.tell(Event{Kind: Promoted, Job: candidate.Job.ID, CertificateID: candidate.CertificateID, Err: unacked})
	if refused {
		return unacked
	}
	return nil
}

// connectCandidate really connects with the candidate; ErrCandidate if that
// did not succeed, however often it was tried.
func (a *Agent) connectCandidate(ctx context.Context) (c *connection, err error) {
	clientID := a.cfg.Device + candidateSuffix
	if a.cfg.TakeOver {
		clientID = a.cfg.Device
	}
	err = a.persist(ctx, func() (int, error) {
		if err := a.store.readAgain(); err != nil {
			return 0, fmt.Errorf("%w: %w", errNotYet, err)
		}
		if c, err = a.connect(ctx, clientID, a.store.candidate.tls()); err != nil {
			return 0, fmt.Errorf("%w: %w", errNotYet, err)
		}
		return 0, nil
	})
	if errors.Is(err, errNotYet) {
		return nil, fmt.Errorf("%w: %w", ErrCandidate, err)
	}
	return c, err
}

// acknowledge tells the vendor, over the connection with the new certificate,
// that it works. A vendor that cannot see the certificate is given the proof.
func (a *Agent) acknowledge(ctx context.Context, c *connection, candidate candidate) error {
	err := a.ack(ctx, c, candidate, ackBody{})
	if isReason(err, protocol.NotProven) && !a.cfg.Proof && candidate.Nonce != "" {
		err = a.ack(ctx, c, candidate, ackBody{CertificateID: candidate.CertificateID})
	}
	if err == nil {
		a.tell(Event{Kind: Acknowledged, Job: candidate.Job.ID, CertificateID: candidate.CertificateID})
	}
	return err
}

// ack sends one ack; a body that names the certificate is signed.
func (a *Agent) ack(ctx context.Context, c *connection, candidate candidate, body ackBody) error {
	body.PreviousCertificateID, body.ClientToken = a.previous(), a.token()
	body.TrustAnchorsSHA256 = a.anchorsTaken()
	if a.cfg.Proof && candidate.Nonce != "" {
		body.CertificateID = candidate.CertificateID
	}
	if body.CertificateID != "" {
		proof, err := protocol.SignProof(a.store.candidate.key, a.cfg.Device, candidate.CertificateID, candidate.Nonce)
		if err != nil {
			return err
		}
		body.Proof = proof
	}
	return a.ask(ctx, c, request{
		action: protocol.Ack, topics: candidate.Topics, token: body.ClientToken, body: body,
		take: func(payload []byte) error { return protocol.Decode(payload, new(protocol.AckAccepted)) },
	})
}
