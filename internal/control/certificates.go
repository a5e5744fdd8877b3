package control

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// HeldCertificate is a certificate with the device that holds it, if one does.
type HeldCertificate struct {
	Device string `json:"device,omitempty"`
	Certificate
}

// Holder is a device that holds a certificate.
type Holder struct {
	Device    string               `json:"device"`
	Attached  time.Time            `json:"attached"`
	LastSeen  time.Time            `json:"lastSeen,omitzero"`
	Evidence  certificate.Evidence `json:"evidence,omitempty"`
	Connected bool                 `json:"connected,omitempty"`
}

// CertificateDetail is all that is known of a certificate. Its own LastSeen is
// the latest of its holders'.
type CertificateDetail struct {
	Certificate
	Holders     []Holder     `json:"holders"`
	Rotations   []Rotation   `json:"rotations"` // those that vended it
	Retirements []Retirement `json:"retirements"`
}

var standings = []certificate.Standing{certificate.Active, certificate.Inactive, certificate.Deleted, certificate.Revoked}

// listCertificates looks through a page of certificates. Nothing is indexed by
// the issuer, so a page is what was looked at, not what was found.
func (s *Server) listCertificates(r *http.Request) (any, error) {
	query, err := s.certificateQuery(r.URL.Query())
	if err != nil {
		return nil, err
	}
	page, err := s.Certificates.List(r.Context(), query)
	if err != nil || len(page) == 0 {
		return part[HeldCertificate]{}, err
	}
	after := page[len(page)-1].ID
	if issuer := r.URL.Query().Get("issuer"); issuer != "" {
		page = slices.DeleteFunc(page, s.notIssuedBy(issuer))
	}
	return part[HeldCertificate]{string(after), each(page, func(h certificate.Holding) HeldCertificate {
		return HeldCertificate{string(h.Device), certificateView(h)}
	})}, nil
}

func (s *Server) certificateQuery(asked url.Values) (certificate.Query, error) {
	attributes, err := attributesOf(asked)
	if err != nil {
		return certificate.Query{}, err
	}
	query := certificate.Query{
		After: certificate.ID(asked.Get("after")), Device: registry.DeviceID(asked.Get("device")),
		Key: certificate.KeyID(asked.Get("key")), Standing: certificate.Standing(asked.Get("standing")),
		Attributes: attributes, Limit: batch,
	}
	if query.Standing != "" && !slices.Contains(standings, query.Standing) {
		return query, refuseOther("standing", query.Standing, standings)
	}
	if _, err := certificate.ParseID(asked.Get("key")); err != nil && query.Key != "" {
		return query, refuse(http.StatusBadRequest, "key %.80q: a key id is 64 lower-case hex digits, as `certvendor certificate show` prints it", query.Key)
	}
	if query.Device != "" {
		if _, err := registry.ParseDeviceID(asked.Get("device")); err != nil {
			return query, refuse(http.StatusBadRequest, "%v", err)
		}
	}
	query.ExpiresBy, err = s.expiresBy(asked)
	return query, err
}

// expiresBy reads how soon a certificate must expire to be listed; zero if that
// is not asked for.
func (s *Server) expiresBy(asked url.Values) (time.Time, error) {
	text := asked.Get("within")
	if text == "" {
		return time.Time{}, nil
	}
	within, err := time.ParseDuration(text)
	if err != nil || within < 0 {
		return time.Time{}, refuse(http.StatusBadRequest, "within %.40q: is not a time from now on", text)
	}
	return s.Now().Add(within), nil
}

// notIssuedBy tells the certificates of other issuers: one is named by its
// common name, by its whole name, or where it is ours by its id.
func (s *Server) notIssuedBy(name string) func(certificate.Holding) bool {
	if ca, err := s.authorityNamed(name); err == nil {
		return notOf(ca, s.CAs())
	}
	known := map[string]bool{}
	return func(h certificate.Holding) bool {
		is, ok := known[h.Issuer]
		if !ok {
			parsed, err := h.X509()
			is = h.Issuer == name || err == nil && parsed.Issuer.CommonName == name
			known[h.Issuer] = is
		}
		return !is
	}
}

// notOf tells the certificates of other issuers than a CA of ours. What a CA has
// issued that is retired, and whose name the other took over, is the other's.
func notOf(ca CA, all []CA) func(certificate.Holding) bool {
	own := map[certificate.ID]bool{ca.ID: true}
	for _, other := range all {
		if other.Role == "retired" && ca.Role != "retired" && other.Subject == ca.Subject {
			own[other.ID] = true
		}
	}
	return func(h certificate.Holding) bool {
		if len(h.Chain) > 0 {
			return !own[certificate.IDOf(h.Chain[0])]
		}
		return h.Issuer != ca.Subject
	}
}

func (s *Server) showCertificate(r *http.Request) (any, error) {
	ctx := r.Context()
	all, err := s.certificate(ctx, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	detail := CertificateDetail{
		Certificate: certificateView(all[0]), Holders: []Holder{}, Rotations: []Rotation{}, Retirements: []Retirement{},
	}
	for _, h := range all {
		if h.LastSeen.After(detail.LastSeen) {
			detail.LastSeen = h.LastSeen
		}
		detail.Connected = detail.Connected || h.Connected
		if h.Device != "" {
			detail.Holders = append(detail.Holders, Holder{string(h.Device), h.Attached, h.LastSeen, h.Evidence, h.Connected})
		}
	}
	for _, id := range devicesOf(all) {
		if err := s.addRotation(ctx, &detail, id); err != nil {
			return nil, err
		}
	}
	return detail, nil
}

// addRotation adds which rotation of a device vended the certificate, and what
// became, or is to become, of it.
func (s *Server) addRotation(ctx context.Context, detail *CertificateDetail, id registry.DeviceID) error {
	history, err := s.Journal.Find(ctx, id)
	if err != nil {
		return err
	}
	if r := history.Of(detail.ID); r != nil {
		detail.Rotations = append(detail.Rotations, rotationView(*r))
	}
	retirements, err := s.Rotations.Retirements(ctx, rotation.Query{Device: id})
	for _, r := range retirements {
		if r.Certificate == detail.ID {
			detail.Retirements = append(detail.Retirements, retirementView(r))
		}
	}
	return err
}

// idPattern is an id, or so much of one as is worth looking for.
var idPattern = regexp.MustCompile(`^[0-9a-f]{4,64}$`)

// certificate returns the holdings of the one certificate whose id is, or
// begins with, a text.
func (s *Server) certificate(ctx context.Context, text string) ([]certificate.Holding, error) {
	if !idPattern.MatchString(text) {
		return nil, refuse(http.StatusBadRequest, "certificate %.80q: an id is 64 lower-case hex digits, or the first of them, 4 at least", text)
	}
	// Ids that begin with a text follow it in order.
	before := certificate.ID(text[:min(len(text), 63)])
	all, err := s.Certificates.List(ctx, certificate.Query{After: before, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 || !strings.HasPrefix(string(all[0].ID), text) {
		return nil, refuse(http.StatusNotFound, "certificate %s is not known: `certvendor certificate list` lists those that are", text)
	}
	next, err := s.Certificates.List(ctx, certificate.Query{After: all[0].ID, Limit: 1})
	if err == nil && len(next) > 0 && strings.HasPrefix(string(next[0].ID), text) {
		err = refuse(http.StatusConflict, "certificate %s: more than one begins so, %.20s and %.20s: give more of it", text, all[0].ID, next[0].ID)
	}
	return all, err
}

// devicesOf returns the devices whose journal may know a certificate: those
// that hold it, or else the one that it is made out to.
func devicesOf(all []certificate.Holding) []registry.DeviceID {
	var ids []registry.DeviceID
	for _, h := range all {
		if h.Device != "" {
			ids = append(ids, h.Device)
		}
	}
	if len(ids) > 0 {
		return ids
	}
	parsed, err := all[0].X509()
	if err != nil {
		return nil
	}
	if id, err := registry.ParseDeviceID(madeOutTo(parsed)); err == nil {
		return []registry.DeviceID{id}
	}
	return nil
}

// madeOutTo returns the name that a certificate bears: the device of its SAN
// URI, or else its common name.
func madeOutTo(c *x509.Certificate) string {
	for _, uri := range c.URIs {
		if name, ok := strings.CutPrefix(uri.String(), certificate.URNPrefix); ok {
			return name
		}
	}
	return c.Subject.CommonName
}

// Describe reads the first certificate of a PEM text, as far as it can be told
// without the daemon. Whatever else is in the text, keys above all, is left
// alone.
func Describe(text []byte) (Certificate, error) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return Certificate{}, errors.New("there is no certificate in PEM in it")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := certificate.New(block.Bytes, nil)
		return certificateView(certificate.Holding{Certificate: c}), err
	}
}
