package control

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
)

func (s *Server) ensureJob(r *http.Request) (any, error) {
	if err := s.note(r.Context(), Event{Kind: "job_ensure"}); err != nil {
		return nil, err
	}
	job, err := s.Jobs.Ensure(r.Context(), s.Job)
	if err != nil {
		return nil, err
	}
	if job.State == jobs.Canceled {
		if err := s.Jobs.Resume(r.Context(), job.ID); err != nil {
			return nil, err
		}
		job.State = jobs.InProgress
	}
	s.AddedMember()
	return jobView(jobs.Status{Job: job}), nil
}

// cancelJob cancels the job whose id the operator was shown.
func (s *Server) cancelJob(r *http.Request) (any, error) {
	ctx := r.Context()
	status, err := s.Jobs.Status(ctx)
	if err != nil {
		return nil, err
	}
	if id := r.PathValue("id"); status.Job.ID != id {
		return nil, refuse(http.StatusConflict, "job %.64s is not the job any more, which is %s: look again with `certvendor job status`", id, status.Job.ID)
	}
	if err := s.note(ctx, Event{Kind: "job_cancel", Detail: map[string]string{"job": status.Job.ID}}); err != nil {
		return nil, err
	}
	if err := s.Jobs.Cancel(ctx, status.Job.ID); err != nil {
		return nil, err
	}
	return s.showJob(r)
}

func (s *Server) showJob(r *http.Request) (any, error) {
	status, err := s.Jobs.Status(r.Context())
	return jobView(status), err
}

func jobView(s jobs.Status) Job {
	return Job{
		ID: s.Job.ID, Group: s.Job.Group, State: string(s.Job.State), Created: s.Job.Created,
		Document: string(s.Job.Document), Executions: s.Executions, Waiting: s.Waiting,
	}
}

// rootsOnly is the parameter of who needs the roots and no CAs: what depends on
// each is counted over the whole fleet.
const rootsOnly = "roots"

// listing is what `ca show` prints.
type listing struct {
	CAs   []CA   `json:"certificates"`
	Roots string `json:"roots"`
}

func (s *Server) listCAs(r *http.Request) (any, error) {
	if r.URL.Query().Has(rootsOnly) {
		return listing{Roots: string(s.Roots())}, nil
	}
	all := append([]CA{}, s.CAs()...)
	return listing{all, string(s.Roots())}, s.countUses(r.Context(), all)
}

// verified is what became of verifying the audit.
type verified struct {
	Events int64  `json:"events"`        // how many hold together, from the first on
	Why    string `json:"why,omitempty"` // why not all do
}

func (s *Server) verifyAudit(r *http.Request) (any, error) {
	n, err := s.VerifyAudit(r.Context())
	v := verified{Events: n}
	if err != nil {
		v.Why = err.Error()
	}
	return v, nil
}

// NewRequest returns a certificate request for a device, in PEM, signed with
// its key.
func NewRequest(key crypto.Signer, id registry.DeviceID) (string, error) {
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: commonName(id)}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return "", fmt.Errorf("device %s: make a certificate request: %w", id, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// commonName leaves the name out where it is longer than a common name may be
// (RFC 5280, appendix A.1).
func commonName(id registry.DeviceID) string {
	if len(id) > 64 {
		return ""
	}
	return string(id)
}

func ownRequest(key crypto.Signer, id registry.DeviceID) (*certificate.Request, error) {
	text, err := NewRequest(key, id)
	if err != nil {
		return nil, err
	}
	return certificate.ParseRequest(text)
}
