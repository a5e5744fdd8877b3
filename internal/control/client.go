package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/certvendor/certvendor/campaign"
)

// Client asks the daemon. Its methods are safe for concurrent use. Their
// errors are one line that says what, which device and what to do; an *Error
// is the daemon's own.
type Client struct {
	at   string // what it is called in an error
	base url.URL
	http *http.Client
}

// Error is a refusal by the daemon.
type Error struct {
	Status int // as HTTP has it
	Text   string
}

func (e *Error) Error() string { return e.Text }

// maxReply bounds what is read of a reply, in octets.
const maxReply = 64 << 20

// Dial returns a client for the socket at path. Nothing is connected before
// the first request.
func Dial(path string) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", path)
		},
		MaxIdleConnsPerHost: together,
	}
	return &Client{at: path, base: url.URL{Scheme: "http", Host: "certvendor"}, http: &http.Client{Transport: transport}}
}

// DialTLS returns a client for the daemon that answers operators at host:port.
// config holds the operator's certificate and by what the daemon's is verified.
// Nothing is connected before the first request.
func DialTLS(address string, config *tls.Config) *Client {
	transport := &http.Transport{
		TLSClientConfig: config, TLSHandshakeTimeout: 10 * time.Second, MaxIdleConnsPerHost: together,
	}
	return &Client{at: address, base: url.URL{Scheme: "https", Host: address}, http: &http.Client{Transport: transport}}
}

// Close gives idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is what one call sends.
type request struct {
	method, path string
	query        url.Values
	body         any // JSON; []byte goes as it is
}

// ask sends a request and decodes the reply.
func ask[T any](ctx context.Context, c *Client, r request) (reply T, err error) {
	response, err := c.send(ctx, r)
	if err != nil {
		return reply, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxReply)).Decode(&reply); err != nil {
		return reply, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return reply, nil
}

// send sends a request and returns the reply, whose body is to be closed. A
// refusal is an *Error.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	body, err := r.encode()
	if err != nil {
		return nil, err
	}
	target := c.base
	if target.Path, err = unescaped(r.path); err != nil {
		return nil, err
	}
	target.RawPath, target.RawQuery = r.path, r.query.Encode()
	sent, err := http.NewRequestWithContext(ctx, r.method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	response, err := c.http.Do(sent)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	var refused failure
	if err := json.NewDecoder(io.LimitReader(response.Body, maxReply)).Decode(&refused); err != nil || refused.Error == "" {
		refused.Error = "the daemon answered " + response.Status
	}
	return nil, &Error{response.StatusCode, refused.Error}
}

// unescaped returns a path as it is meant, of one whose names are escaped. It refuses
// names that would make it another path.
func unescaped(path string) (string, error) {
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if name == "" || name == "." || name == ".." {
			return "", fmt.Errorf("%q is no name", name)
		}
	}
	return url.PathUnescape(path)
}

func (r request) encode() (io.Reader, error) {
	switch body := r.body.(type) {
	case nil:
		return http.NoBody, nil
	case []byte:
		return bytes.NewReader(body), nil
	}
	text, err := json.Marshal(r.body)
	if err != nil {
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	return bytes.NewReader(text), nil
}

// unreachable says in one line why nobody answered, and what to do.
func (c *Client) unreachable(err error) error {
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &unverified):
		return fmt.Errorf("the certificate of the daemon on %s is not trusted (%w): --server-ca names what verifies it", c.at, unverified.Err)
	case errors.Is(err, syscall.ECONNREFUSED) && c.base.Scheme == "https":
		return fmt.Errorf("no daemon answers on %s: start `certvendor serve`, or name its control.tls.listen with --server", c.at)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon answers on %s: start `certvendor serve`, or name its --config or --socket", c.at)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission to use %s: be its owner, or a member of control.group", c.at)
	}
	return fmt.Errorf("ask the daemon on %s: %w", c.at, err)
}

// pages goes through a list, a page at a time, until one comes back empty.
// next names the entry that the next page comes after.
func pages[T any](ctx context.Context, c *Client, r request, next func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		if r.query == nil {
			r.query = url.Values{}
		}
		for {
			page, err := ask[[]T](ctx, c, r)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, entry := range page {
				if !yield(entry, nil) {
					return
				}
			}
			if len(page) == 0 {
				return
			}
			r.query.Set("after", next(page[len(page)-1]))
		}
	}
}

// Ready returns nil if the daemon can answer devices.
func (c *Client) Ready(ctx context.Context) error {
	_, err := ask[struct{}](ctx, c, request{method: http.MethodGet, path: "/v1/ready"})
	return err
}

// AddDevice enters a device and has its first certificate made.
func (c *Client) AddDevice(ctx context.Context, r AddRequest) (Added, error) {
	return ask[Added](ctx, c, request{method: http.MethodPost, path: "/v1/devices", body: r})
}

// AdoptDevice enters a device with a certificate made elsewhere. Idempotent.
func (c *Client) AdoptDevice(ctx context.Context, r AdoptRequest) (Adopted, error) {
	return ask[Adopted](ctx, c, request{method: http.MethodPost, path: "/v1/devices/adopt", body: r})
}

// Devices goes through the devices that have all of the attributes, by name.
func (c *Client) Devices(ctx context.Context, attributes map[string]string) iter.Seq2[Device, error] {
	query := url.Values{}
	for name, value := range attributes {
		query.Add("attribute", name+"="+value)
	}
	return pages(ctx, c, request{method: http.MethodGet, path: "/v1/devices", query: query},
		func(d Device) string { return d.Name })
}

// Device returns all that is known of a device.
func (c *Client) Device(ctx context.Context, name string) (DeviceDetail, error) {
	return ask[DeviceDetail](ctx, c, request{method: http.MethodGet, path: "/v1/devices/" + url.PathEscape(name)})
}

// RemoveDevice takes a device out of the registry; what its certificates were
// stays on record.
func (c *Client) RemoveDevice(ctx context.Context, name string) (Device, error) {
	return ask[Device](ctx, c, request{method: http.MethodDelete, path: "/v1/devices/" + url.PathEscape(name)})
}

// BlockDevice stops everything that is done for a device. Idempotent.
func (c *Client) BlockDevice(ctx context.Context, name string) (Device, error) {
	return ask[Device](ctx, c, request{method: http.MethodPost, path: "/v1/devices/" + url.PathEscape(name) + "/block"})
}

// UnblockDevice lets it go on. Idempotent.
func (c *Client) UnblockDevice(ctx context.Context, name string) (Device, error) {
	return ask[Device](ctx, c, request{method: http.MethodPost, path: "/v1/devices/" + url.PathEscape(name) + "/unblock"})
}

// Join puts devices into the rotation group, however many there are, and
// reports each. It ends at the first error that is not about one device.
func (c *Client) Join(ctx context.Context, devices []string, report func(Outcome)) error {
	return c.inBatches(ctx, "/v1/members", devices, report)
}

// Leave takes devices out of the rotation group, as Join puts them in.
func (c *Client) Leave(ctx context.Context, devices []string, report func(Outcome)) error {
	return c.inBatches(ctx, "/v1/members/remove", devices, report)
}

func (c *Client) inBatches(ctx context.Context, path string, devices []string, report func(Outcome)) error {
	for len(devices) > 0 {
		n := min(len(devices), batch)
		outcomes, err := ask[[]Outcome](ctx, c, request{method: http.MethodPost, path: path, body: names{devices[:n]}})
		if err != nil {
			return err
		}
		for _, o := range outcomes {
			report(o)
		}
		devices = devices[n:]
	}
	return nil
}

// Members goes through the rotation group, by name.
func (c *Client) Members(ctx context.Context) iter.Seq2[Member, error] {
	return pages(ctx, c, request{method: http.MethodGet, path: "/v1/members"}, func(m Member) string { return m.Device })
}

// RotationQuery selects rotations; its zero value selects all.
type RotationQuery struct {
	Device string
	State  string
	Open   bool // only open and stale ones
}

// Rotations goes through rotations, by device, the newest of each first.
func (c *Client) Rotations(ctx context.Context, q RotationQuery) iter.Seq2[Rotation, error] {
	query := url.Values{"device": {q.Device}, "state": {q.State}, "open": {strconv.FormatBool(q.Open)}}
	return pages(ctx, c, request{method: http.MethodGet, path: "/v1/rotations", query: query},
		func(r Rotation) string { return r.Device })
}

// Stuck goes through what does not go on by itself: first retirements, then
// rotations.
func (c *Client) Stuck(ctx context.Context) iter.Seq2[Stuck, error] {
	return func(yield func(Stuck, error) bool) {
		for _, what := range []string{"retirement", "rotation"} {
			for after := ""; ; {
				page, err := ask[stuckPage](ctx, c, request{
					method: http.MethodGet, path: "/v1/stuck", query: url.Values{"what": {what}, "after": {after}},
				})
				if err != nil {
					yield(Stuck{}, err)
					return
				}
				for _, s := range page.Stuck {
					if !yield(s, nil) {
						return
					}
				}
				if after = page.After; after == "" {
					break
				}
			}
		}
	}
}

// Status returns how the rotation of the fleet goes.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return ask[Status](ctx, c, request{method: http.MethodGet, path: "/v1/status"})
}

// Sweep does now what is due; with trustClock, the daemon first takes its
// clock for right as it is.
func (c *Client) Sweep(ctx context.Context, trustClock bool) (Swept, error) {
	return ask[Swept](ctx, c, request{method: http.MethodPost, path: "/v1/sweep", body: map[string]bool{"trustClock": trustClock}})
}

// CreatePackage has a package made for a device, in place of the one it has.
func (c *Client) CreatePackage(ctx context.Context, name string) (Package, error) {
	return ask[Package](ctx, c, request{method: http.MethodPost, path: "/v1/packages/" + url.PathEscape(name)})
}

// PutPackage stores a package made elsewhere, for the certificate with this id.
func (c *Client) PutPackage(ctx context.Context, name, id string, zip []byte) (Package, error) {
	return ask[Package](ctx, c, request{
		method: http.MethodPut, path: "/v1/packages/" + url.PathEscape(name),
		query: url.Values{"certificate": {id}}, body: zip,
	})
}

// ListPackages goes through all packages, by device.
func (c *Client) ListPackages(ctx context.Context) iter.Seq2[Package, error] {
	return pages(ctx, c, request{method: http.MethodGet, path: "/v1/packages"}, func(p Package) string { return p.Device })
}

// EnsureJob makes the rotation job as the daemon's configuration wants it.
// Idempotent.
func (c *Client) EnsureJob(ctx context.Context) (Job, error) {
	return ask[Job](ctx, c, request{method: http.MethodPost, path: "/v1/job"})
}

// Job returns the rotation job and how its executions stand.
func (c *Client) Job(ctx context.Context) (Job, error) {
	return ask[Job](ctx, c, request{method: http.MethodGet, path: "/v1/job"})
}

// PlanCampaign foretells a campaign, and changes nothing.
func (c *Client) PlanCampaign(ctx context.Context, spec campaign.Spec) (campaign.Plan, error) {
	return ask[campaign.Plan](ctx, c, request{method: http.MethodPost, path: "/v1/campaigns/plan", body: spec})
}

// ApplyCampaign makes a campaign and lets it run. Applied again, it changes
// nothing.
func (c *Client) ApplyCampaign(ctx context.Context, spec campaign.Spec) (Campaign, error) {
	return ask[Campaign](ctx, c, request{method: http.MethodPost, path: "/v1/campaigns", body: spec})
}

// Campaigns returns every campaign, the newest first.
func (c *Client) Campaigns(ctx context.Context) ([]Campaign, error) {
	return ask[[]Campaign](ctx, c, request{method: http.MethodGet, path: "/v1/campaigns"})
}

// Campaign returns one campaign.
func (c *Client) Campaign(ctx context.Context, name string) (Campaign, error) {
	return ask[Campaign](ctx, c, request{method: http.MethodGet, path: "/v1/campaigns/" + url.PathEscape(name)})
}

// CampaignMembers goes through a campaign's devices, in its order.
func (c *Client) CampaignMembers(ctx context.Context, name string) iter.Seq2[CampaignMember, error] {
	return pages(ctx, c, request{method: http.MethodGet, path: "/v1/campaigns/" + url.PathEscape(name) + "/members"},
		func(m CampaignMember) string { return strconv.Itoa(m.Place) })
}

// SteerCampaign pauses, resumes or cancels a campaign.
func (c *Client) SteerCampaign(ctx context.Context, name, verb string) (Campaign, error) {
	return ask[Campaign](ctx, c, request{method: http.MethodPost, path: "/v1/campaigns/" + url.PathEscape(name) + "/" + verb})
}

// CAs lists the CA's certificates, and returns, as PEM, what devices verify
// the broker and links by.
func (c *Client) CAs(ctx context.Context) (all []CA, roots string, err error) {
	reply, err := ask[listing](ctx, c, request{method: http.MethodGet, path: "/v1/ca"})
	return reply.CAs, reply.Roots, err
}

// Roots returns, as PEM, what devices verify the broker and links by.
func (c *Client) Roots(ctx context.Context) (string, error) {
	reply, err := ask[listing](ctx, c, request{method: http.MethodGet, path: "/v1/ca", query: url.Values{rootsOnly: {""}}})
	return reply.Roots, err
}

// What names what freeze stops and thaw lets go on.
type What struct{ Vending, Retiring bool }

// Freeze stops vending, retiring or both, durably.
func (c *Client) Freeze(ctx context.Context, what What, why string) (Frozen, error) {
	body := freezeRequest{Vending: what.Vending, Retiring: what.Retiring, Why: why}
	return ask[Frozen](ctx, c, request{method: http.MethodPost, path: "/v1/freeze", body: body})
}

// Thaw lets them go on.
func (c *Client) Thaw(ctx context.Context, what What) (Frozen, error) {
	body := freezeRequest{Vending: what.Vending, Retiring: what.Retiring}
	return ask[Frozen](ctx, c, request{method: http.MethodPost, path: "/v1/thaw", body: body})
}

// VerifyAudit holds the audit's files against its store, and returns how many
// events hold together from the first on. An audit that does not is an *Error.
func (c *Client) VerifyAudit(ctx context.Context) (int64, error) {
	reply, err := ask[verified](ctx, c, request{method: http.MethodPost, path: "/v1/audit/verify"})
	if err == nil && reply.Why != "" {
		err = &Error{http.StatusConflict, reply.Why}
	}
	return reply.Events, err
}
