package control

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// CertificateQuery selects certificates; its zero value selects all.
type CertificateQuery struct {
	Device     string
	Issuer     string         // its common name, or its whole name
	Key        string         // the id of a key
	Standing   string         // ACTIVE, INACTIVE or DELETED
	Within     *time.Duration // only those that expire within this time, or have expired
	Attributes map[string]string
}

// Certificates lists certificates by id, each as often as it is held.
func (c *Client) Certificates(ctx context.Context, q CertificateQuery) List[HeldCertificate] {
	query := selection(q.Within, q.Attributes)
	for name, value := range map[string]string{"device": q.Device, "issuer": q.Issuer, "key": q.Key, "standing": q.Standing} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return List[HeldCertificate]{ctx, c, request{method: http.MethodGet, path: "/v1/certificates", query: query}}
}

// Certificate returns all that is known of the certificate whose id is, or
// begins with, a text.
func (c *Client) Certificate(ctx context.Context, id string) (CertificateDetail, error) {
	return ask[CertificateDetail](ctx, c, request{method: http.MethodGet, path: "/v1/certificates/" + url.PathEscape(id)})
}

// FleetQuery selects devices; its zero value selects all.
type FleetQuery struct {
	Within     *time.Duration // only those whose certificate expires within this time, or has expired
	Attributes map[string]string
}

// Fleet lists the devices by name, each with the certificate it uses.
func (c *Client) Fleet(ctx context.Context, q FleetQuery) List[FleetDevice] {
	query := selection(q.Within, q.Attributes)
	return List[FleetDevice]{ctx, c, request{method: http.MethodGet, path: "/v1/fleet", query: query}}
}

// Explain says what requests of a device would meet now: a get, an ack, or with
// no action either.
func (c *Client) Explain(ctx context.Context, name string, action protocol.Action) (Explanation, error) {
	return ask[Explanation](ctx, c, request{
		method: http.MethodGet, path: "/v1/devices/" + url.PathEscape(name) + "/explain",
		query: url.Values{"action": {string(action)}},
	})
}

// Survey looks through all certificates, keys and devices, and returns what is
// out there. looked is told after every page how many devices were seen.
func (c *Client) Survey(ctx context.Context, looked func(devices int)) (Survey, error) {
	all := newSurvey()
	for _, what := range surveys {
		for after := ""; ; {
			part, err := ask[surveyPart](ctx, c, request{
				method: http.MethodGet, path: "/v1/survey", query: url.Values{"what": {what}, "after": {after}},
			})
			if err != nil {
				return all, err
			}
			all.add(part.Survey)
			looked(all.Devices)
			if after = part.After; after == "" {
				break
			}
		}
	}
	return all, nil
}

func selection(within *time.Duration, attributes map[string]string) url.Values {
	query := url.Values{}
	if within != nil {
		query.Set("within", within.String())
	}
	for name, value := range attributes {
		query.Add("attribute", name+"="+value)
	}
	return query
}
