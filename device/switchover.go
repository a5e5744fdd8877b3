package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/certvendor/certvendor/protocol"
)

// switchOver connects with the candidate and, over that connection only, ends
// the job and acknowledges. The ack comes last: it takes the device out of the
// group, and with it an execution that has not ended.
func (a *Agent) switchOver(ctx context.Context) error {
	candidate := *a.store.state.Candidate
	c, err := a.connectCandidate(ctx)
	if err != nil {
		return err
	}
	defer c.close()
	a.tell(Event{Kind: CandidateConnected, Job: candidate.Job.ID, CertificateID: candidate.CertificateID})
	if err := a.store.cut("candidate connected"); err != nil {
		return err
	}
	if err := a.join(ctx, c); err != nil {
		return err
	}
	candidate.Job = a.store.state.Candidate.Job
	// A report that does not get through, which is told, must not keep the
	// device from finishing: the next start-next shows the job again.
	_ = a.report(ctx, c, candidate.Job, protocol.JobUpdate{Status: protocol.JobSucceeded})
	if err := a.store.cut("job reported"); err != nil {
		return err
	}
	refused := a.acknowledge(ctx, c, candidate)
	if refused != nil && !isReason(refused, protocol.NoOpenRotation) && !isReason(refused, protocol.NotProven) {
		return refused
	}
	if err := a.store.cut("acknowledged"); err != nil {
		return err
	}
	// The vendor knows of no rotation, or cannot see this certificate: it will
	// take nothing away, and the certificate works.
	if err := a.store.promote(a.cfg.Now()); err != nil {
		return err
	}
	a.setCurrent()
	a.tell(Event{Kind: Promoted, Job: candidate.Job.ID, CertificateID: candidate.CertificateID})
	return refused
}

// connectCandidate really connects with the candidate; ErrCandidate if that
// did not succeed, however often it was tried.
func (a *Agent) connectCandidate(ctx context.Context) (c *connection, err error) {
	clientID := a.cfg.Device + candidateSuffix
	if a.cfg.TakeOver {
		clientID = a.cfg.Device
	}
	err = a.persist(ctx, func() (int, error) {
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
