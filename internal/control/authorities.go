package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/certvendor/certvendor/certificate"
)

// Authority is what a person may ask of the issuing CAs. Where it refuses, the
// error is a CARefused.
type Authority interface {
	// RotateCA makes another issuing CA under the root, and lets it take over.
	RotateCA(context.Context) (CA, error)
	// RequestCA returns a request, in PEM, for another certificate of the CA
	// that issues, or with another key.
	RequestCA(ctx context.Context, fresh bool) (string, error)
	// ImportCA lets the CA at the head of a chain in PEM take over.
	ImportCA(ctx context.Context, chain string) (CA, error)
	// UsesOfCA counts what would stop working without a CA.
	UsesOfCA(context.Context, certificate.ID) (CAUses, error)
	// RetireCA distrusts a CA for good, unless more would stop working than
	// may: then it does nothing and returns a CAInUse.
	RetireCA(ctx context.Context, id certificate.ID, lose int) error
}

// CARefused is why the CA was left as it is, and what to do instead.
type CARefused struct{ Why string }

func (e CARefused) Error() string { return e.Why }

// CAInUse says that more would stop working than may.
type CAInUse struct{ Uses CAUses }

func (e CAInUse) Error() string { return e.Uses.text() }

// CAUses is what would stop working without a CA.
type CAUses struct {
	Certificates int `json:"certificates"`       // ACTIVE, held and not expired
	Birth        int `json:"birth,omitempty"`    // of these, birth certificates
	Packages     int `json:"packages,omitempty"` // that wait for their devices
}

// All is how many things these are.
func (u CAUses) All() int { return u.Certificates + u.Packages }

func (u CAUses) text() string {
	text := counted(u.Certificates, "ACTIVE certificate of it is held", "ACTIVE certificates of it are held")
	if u.Birth > 0 {
		text += ", " + counted(u.Birth, "of them a birth certificate that no rotation replaces", "of them birth certificates that no rotation replaces")
	}
	if u.Packages > 0 {
		text += ", and " + counted(u.Packages, "package with one waits for its device", "packages with one wait for their devices")
	}
	return text
}

// counted writes how many there are, in the words for one or for several.
func counted(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}

// CARetireRequest asks to retire a CA.
type CARetireRequest struct {
	ID   string `json:"id"`             // or at least 12 of its first digits
	Lose int    `json:"lose,omitempty"` // so many things that are in use may stop working
	Plan bool   `json:"plan,omitempty"` // only say what it would do
}

// CARetired is what became, or would become, of a CA.
type CARetired struct {
	ID        certificate.ID `json:"certificateId"`
	Subject   string         `json:"subject"`
	Uses      CAUses         `json:"uses"` // before it
	Done      bool           `json:"done,omitempty"`
	Unchanged string         `json:"unchanged,omitempty"`
}

func (s *Server) rotateCA(r *http.Request) (any, error) {
	if err := s.note(r.Context(), Event{Kind: "ca_rotate"}); err != nil {
		return nil, err
	}
	return s.Authority.RotateCA(r.Context())
}

// caRequest is the body of a request for a request.
type caRequest struct {
	New bool `json:"new,omitempty"`
}

// caText is PEM.
type caText struct {
	PEM string `json:"pem"`
}

func (s *Server) requestCA(r *http.Request) (any, error) {
	var asked caRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if err := s.note(r.Context(), Event{Kind: "ca_csr", Detail: map[string]string{"new": strconv.FormatBool(asked.New)}}); err != nil {
		return nil, err
	}
	text, err := s.Authority.RequestCA(r.Context(), asked.New)
	return caText{text}, err
}

func (s *Server) importCA(r *http.Request) (any, error) {
	var asked caText
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	if err := s.note(r.Context(), Event{Kind: "ca_import"}); err != nil {
		return nil, err
	}
	return s.Authority.ImportCA(r.Context(), asked.PEM)
}

func (s *Server) retireCA(r *http.Request) (any, error) {
	ctx := r.Context()
	var asked CARetireRequest
	if err := read(r, &asked); err != nil {
		return nil, err
	}
	ca, err := s.authorityNamed(asked.ID)
	if err != nil {
		return nil, err
	}
	told := CARetired{ID: ca.ID, Subject: ca.Subject}
	switch ca.Role {
	case "retired":
		told.Unchanged = "it is retired already"
		return told, nil
	case "issuing":
		return nil, refuse(http.StatusConflict, "CA %.12s is the one that issues: `certvendor ca rotate` lets another one take over first", ca.ID)
	}
	if told.Uses, err = s.Authority.UsesOfCA(ctx, ca.ID); err != nil || asked.Plan {
		return told, err
	}
	err = s.note(ctx, Event{Kind: "ca_retire", Certificate: ca.ID, Detail: map[string]string{
		"lose": strconv.Itoa(asked.Lose), "certificates": strconv.Itoa(told.Uses.Certificates), "packages": strconv.Itoa(told.Uses.Packages),
	}})
	if err != nil {
		return nil, err
	}
	err = s.Authority.RetireCA(ctx, ca.ID, asked.Lose)
	if inUse := (CAInUse{}); errors.As(err, &inUse) {
		return nil, refuse(http.StatusConflict, "CA %.12s: %s, and %d may be lost: nothing was done", ca.ID, inUse.Uses.text(), asked.Lose)
	}
	told.Done = err == nil
	return told, err
}

// authorityNamed finds an issuing CA by its id, or at least 12 digits of it.
func (s *Server) authorityNamed(text string) (CA, error) {
	var found []CA
	for _, ca := range s.CAs() {
		if ca.issues() && revocable.MatchString(text) && strings.HasPrefix(string(ca.ID), text) {
			found = append(found, ca)
		}
	}
	if len(found) != 1 {
		return CA{}, refuse(http.StatusNotFound, "CA %.80q is none of the issuing CAs: `certvendor ca show` lists them; at least the first 12 digits are needed", text)
	}
	return found[0], nil
}

// issues reports whether this is a CA that signs, or signed, for devices.
func (ca CA) issues() bool {
	return ca.Role == "issuing" || ca.Role == "former" || ca.Role == "retired"
}

// countUses adds to the issuing CAs what would stop working without them.
func (s *Server) countUses(ctx context.Context, all []CA) error {
	for i := range all {
		if all[i].Role == "next-server-ca" {
			n, err := s.Servers.CountMissing(ctx)
			if err != nil {
				return err
			}
			all[i].Missing = &n
		}
		if !all[i].issues() || all[i].Role == "retired" {
			continue
		}
		uses, err := s.Authority.UsesOfCA(ctx, all[i].ID)
		if err != nil {
			return err
		}
		all[i].Uses = &uses
	}
	return nil
}

// RotateCA makes another issuing CA under the root, and lets it take over.
func (c *Client) RotateCA(ctx context.Context) (CA, error) {
	return ask[CA](ctx, c, request{method: http.MethodPost, path: "/v1/ca/rotate"})
}

// RequestCA returns a certificate request of the issuing CA in PEM; with fresh,
// one with a new key.
func (c *Client) RequestCA(ctx context.Context, fresh bool) (string, error) {
	text, err := ask[caText](ctx, c, request{method: http.MethodPost, path: "/v1/ca/csr", body: caRequest{fresh}})
	return text.PEM, err
}

// ImportCA lets the CA at the head of a chain in PEM take over.
func (c *Client) ImportCA(ctx context.Context, chain string) (CA, error) {
	return ask[CA](ctx, c, request{method: http.MethodPost, path: "/v1/ca/import", body: caText{chain}})
}

// RetireCA distrusts a CA for good, or says with Plan what that would do.
func (c *Client) RetireCA(ctx context.Context, r CARetireRequest) (CARetired, error) {
	return ask[CARetired](ctx, c, request{method: http.MethodPost, path: "/v1/ca/retire", body: r})
}
