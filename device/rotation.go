package device

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/certvendor/certvendor/protocol"
)

// A rotation, step by step. Each step ends with something durable, on disk or
// at the vendor, and finding it done is what the next start goes on from:
//
//	begin       a key is made                    -> a candidate without certificate
//	obtain      the certificate for it is stored -> an issued candidate
//	switchOver  the candidate has connected      -> the candidate is in use
//	            reported, acked                  -> the old pair is gone
//
// Until the last of these the old pair is untouched.

// rotate performs a rotation over a connection with the certificate in use. It
// reports true if the rotation ended, well or not.
func (a *Agent) rotate(ctx context.Context, c *connection, find finder) (ended bool, err error) {
	w, err := find(ctx, c)
	if err != nil {
		return false, err
	}
	ended, err = a.carryOut(ctx, c, w)
	if w.renewal && w.job.ID == "" {
		err = errors.Join(err, a.renewed(ctx, err))
	}
	return ended, err
}

// errNoTopics ends work that nobody could have given.
var errNoTopics = errors.New("there is a rotation to carry out, and no topics to ask on")

func (a *Agent) carryOut(ctx context.Context, c *connection, w work) (ended bool, err error) {
	if w.topics == (protocol.Topics{}) {
		return false, errNoTopics
	}
	resumed := a.store.state.Candidate != nil
	err = a.obtain(ctx, c, w)
	if resumed && isReason(err, protocol.CSRRejected) {
		// The vendor may have dropped a key that waited too long.
		if err := a.store.discard(); err != nil {
			return false, err
		}
		err = a.obtain(ctx, c, w)
	}
	if isRefused(err) {
		return true, a.giveUp(ctx, c, w, err)
	}
	if err != nil {
		return false, err
	}
	return a.install(ctx, c, w)
}

// install switches over to the candidate. It gives up only where the broker
// did not take the candidate in two rounds of attempts, each with the old
// connection at work before and after: anything else may be the network.
func (a *Agent) install(ctx context.Context, c *connection, w work) (ended bool, err error) {
	for range 2 {
		err = a.switchOver(ctx)
		if !errors.Is(err, ErrCandidate) {
			return a.store.state.Candidate == nil, err
		}
		// The topics of the get, for it may have no right to those of jobs.
		if works := a.listenFor(ctx, c, request{action: protocol.Get, topics: w.topics}); works != nil {
			return false, errors.Join(err, works)
		}
	}
	return true, a.giveUp(ctx, c, w, err)
}

// obtain gets the candidate's certificate, and first its key.
func (a *Agent) obtain(ctx context.Context, c *connection, w work) error {
	switch candidate := a.store.state.Candidate; {
	case candidate != nil && candidate.Issued:
		return nil
	case candidate == nil && a.cfg.Flow == ByPackage:
		return a.obtainPackage(ctx, c, w)
	case candidate == nil:
		a.resumed = 0
		if err := a.store.create(w.candidate()); err != nil {
			return err
		}
		if a.cfg.FixedKey == nil {
			a.tell(Event{Kind: KeyMade, Job: w.job.ID})
		}
	case candidate.Job != w.job: // one came for a renewal that waited
		next := *candidate
		next.Job, next.Topics = w.job, w.topics
		if err := a.store.attach(next); err != nil {
			return err
		}
	}
	return a.obtainForKey(ctx, c, w)
}

func (w work) candidate() candidate {
	return candidate{Job: w.job, Topics: w.topics, Renewal: w.renewal}
}

func (a *Agent) obtainForKey(ctx context.Context, c *connection, w work) error {
	csr, err := a.csr(a.store.candidate.key)
	if err != nil {
		return err
	}
	var issued issuance
	token := a.token()
	err = a.ask(ctx, c, request{
		action: protocol.Get, topics: w.topics, token: token,
		body: getBody{CSR: csr, PreviousCertificateID: a.previous(), ClientToken: token},
		take: func(payload []byte) error { return a.readIssued(payload, &issued) },
		fail: func(err error) {
			if errors.Is(err, errInUse) && issued.reply.ClientToken == token {
				a.finishEarlier(ctx, c, w, issued.reply)
			}
		},
	})
	if err != nil {
		return err
	}
	if err := a.store.cut("certificate received"); err != nil {
		return err
	}
	if err := a.takeAnchors(issued.reply.TrustAnchors); err != nil {
		return err
	}
	next := *a.store.state.Candidate
	next.CertificateID, next.Nonce = issued.reply.CertificateID, issued.reply.Nonce
	next.Topics = w.topics // they were answered
	if err := a.store.issue(next, issued.chain); err != nil {
		return err
	}
	a.tell(Event{Kind: CertificateStored, Job: w.job.ID, CertificateID: next.CertificateID})
	return nil
}

func (a *Agent) csr(key crypto.Signer) (string, error) {
	template := &x509.CertificateRequest{}
	// RFC 5280 caps a common name at 64 characters (ub-common-name); an empty
	// subject says the same, since the topic names the device.
	if len(a.cfg.Device) <= 64 {
		template.Subject = pkix.Name{CommonName: a.cfg.Device}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return "", fmt.Errorf("make the certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

type issuance struct {
	reply protocol.GetAccepted
	chain []*x509.Certificate
}

// errInUse is the kind of an answer that holds the certificate in use.
var errInUse = errors.New("the certificate is the one in use")

// readIssued takes an answer only if its certificate is for the candidate's
// key, and new: an answer to an earlier request may still be under way.
func (a *Agent) readIssued(payload []byte, into *issuance) error {
	*into = issuance{} // nothing stays of an answer that was passed over
	if err := protocol.Decode(payload, &into.reply); err != nil {
		return err
	}
	chain, err := decodeChain([]byte(into.reply.Certificate + "\n" + into.reply.Chain))
	if err != nil {
		return err
	}
	into.chain = chain
	id := idOf(pair{chain: chain})
	if id == idOf(a.store.current) {
		return errInUse
	}
	if into.reply.CertificateID == "" {
		into.reply.CertificateID = id
	}
	return check(pair{key: a.store.candidate.key, chain: chain})
}

// finishEarlier is for a key that is used again. A vendor that answers with the
// certificate in use still has its rotation open, since the ack that ends it
// never arrived, and would answer so for ever.
func (a *Agent) finishEarlier(ctx context.Context, c *connection, w work, reply protocol.GetAccepted) {
	earlier := *a.store.state.Candidate
	earlier.Topics = w.topics
	earlier.CertificateID, earlier.Nonce = idOf(a.store.current), reply.Nonce
	// Its error matters no more: the next answer tells.
	_ = a.acknowledge(ctx, c, earlier)
}

// check tells a certificate for another key. Whether it is valid now is not
// asked: this device's clock may be wrong, the broker's is what counts.
func check(p pair) error {
	if !isFor(p.chain[0], p.key) {
		return errors.New("the certificate is not for the key")
	}
	return nil
}

// giveUp removes the candidate, if there is one, and ends the job. It returns
// why.
func (a *Agent) giveUp(ctx context.Context, c *connection, w work, why error) error {
	if a.store.state.Candidate != nil {
		if err := a.store.discard(); err != nil {
			return err
		}
		a.setCurrent()
	}
	a.tell(Event{Kind: GivenUp, Job: w.job.ID, Err: why})
	_ = a.report(ctx, c, w.job, protocol.JobUpdate{ // its error is told
		Status: protocol.JobFailed, StatusDetails: map[string]string{"reason": failure(why)},
	})
	return why
}

// failure names the reason in a job's status details.
func failure(why error) string {
	var refused *Refused
	if errors.As(why, &refused) {
		return string(refused.Reason)
	}
	return "NEW_CERTIFICATE_DOES_NOT_CONNECT"
}

// previous names the certificate in use where that is wanted.
func (a *Agent) previous() string {
	if !a.cfg.NamePrevious {
		return ""
	}
	return idOf(a.store.current)
}

// idOf returns the certificate's ID: the SHA-256 of its DER in lower-case hex.
func idOf(p pair) string {
	sum := sha256.Sum256(p.chain[0].Raw)
	return hex.EncodeToString(sum[:])
}

func isRefused(err error) bool {
	var refused *Refused
	return errors.As(err, &refused)
}

func isReason(err error, reason protocol.Reason) bool {
	var refused *Refused
	return errors.As(err, &refused) && refused.Reason == reason
}
