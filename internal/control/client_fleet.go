package control

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"sync"
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

// Certificates goes through certificates by id, each as often as it is held.
func (c *Client) Certificates(ctx context.Context, q CertificateQuery) iter.Seq2[HeldCertificate, error] {
	query := selection(q.Within, q.Attributes)
	for name, value := range map[string]string{"device": q.Device, "issuer": q.Issuer, "key": q.Key, "standing": q.Standing} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return parts[HeldCertificate](ctx, c, request{method: http.MethodGet, path: "/v1/certificates", query: query})
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

// Fleet goes through the devices by name, each with the certificate it uses.
func (c *Client) Fleet(ctx context.Context, q FleetQuery) iter.Seq2[FleetDevice, error] {
	query := selection(q.Within, q.Attributes)
	return parts[FleetDevice](ctx, c, request{method: http.MethodGet, path: "/v1/fleet", query: query})
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

// parts goes through a list that is looked through, until nothing is left. The
// daemon looks through the next part while this one is read and used.
func parts[T any](ctx context.Context, c *Client, r request) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		asked, cancel := context.WithCancel(ctx)
		got := make(chan unread, 1)
		var asking sync.WaitGroup
		asking.Go(func() { c.askParts(asked, r, got) })
		defer asking.Wait()
		defer cancel()
		var none T
		for one := range got {
			var page part[T]
			if one.err == nil {
				one.err = json.Unmarshal(one.text, &page)
			}
			if one.err != nil {
				yield(none, one.err)
				return
			}
			for _, found := range page.Found {
				if !yield(found, nil) {
					return
				}
			}
		}
		if ctx.Err() != nil { // what came last may not have been handed on
			yield(none, ctx.Err())
		}
	}
}

// unread is a part of a list as it came.
type unread struct {
	text json.RawMessage
	err  error
}

// askParts hands on one part after the other, and ends after the last, after
// an error, or when nobody takes them any more.
func (c *Client) askParts(ctx context.Context, r request, got chan<- unread) {
	defer close(got)
	for {
		text, err := ask[json.RawMessage](ctx, c, r)
		select {
		case got <- unread{text, err}:
		case <-ctx.Done():
			return
		}
		after := afterOf(text)
		if err != nil || after == "" {
			return
		}
		r.query.Set("after", after)
	}
}

// afterOf reads the first member of a part, and nothing behind it.
func afterOf(text json.RawMessage) string {
	decoder := json.NewDecoder(bytes.NewReader(text))
	for _, want := range []json.Token{json.Delim('{'), "after"} {
		if got, err := decoder.Token(); err != nil || got != want {
			return ""
		}
	}
	after, _ := decoder.Token()
	name, _ := after.(string)
	return name
}
