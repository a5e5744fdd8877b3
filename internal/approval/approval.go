// Package approval asks others over HTTPS whether a request of a device may be
// answered: one bounded question, on a connection whose server is verified.
package approval

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/certvendor/certvendor/vending"
)

// Config is what an HTTPS needs. All but Token and Roots is required.
type Config struct {
	URL     string
	Token   string         // sent as "Authorization: Bearer"; empty: none
	Roots   *x509.CertPool // that verify the server; nil: the system's
	Timeout time.Duration  // of one question
}

// atOnce bounds the connections that are kept open.
const atOnce = 64

// HTTPS asks by POST. It is a vending.Approver, safe for concurrent use. Its
// errors hold neither the URL nor the token.
type HTTPS struct {
	config Config
	host   string
	client *http.Client
}

var _ vending.Approver = (*HTTPS)(nil)

// New returns an approver that has asked nobody yet, or says what cannot work.
func New(c Config) (*HTTPS, error) {
	target, err := url.Parse(c.URL)
	if err != nil || target.Scheme != "https" || target.Host == "" {
		return nil, errors.New("approval.url: must be an https:// URL")
	}
	if c.Timeout <= 0 {
		return nil, errors.New("approval.timeout: must be more than zero")
	}
	return &HTTPS{config: c, host: target.Host, client: &http.Client{
		Timeout: c.Timeout,
		// An answer that sends us elsewhere is none: whoever configured the URL
		// trusts that one.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots}, ForceAttemptHTTP2: true,
			IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: atOnce, MaxResponseHeaderBytes: 64 << 10,
		},
	}}, nil
}

// Approve implements vending.Approver: 200 with an answer decides, and nothing
// else does.
func (h *HTTPS) Approve(ctx context.Context, q vending.ApprovalQuestion) (vending.Approval, error) {
	ctx, cancel := context.WithTimeout(ctx, h.config.Timeout)
	defer cancel()
	text, err := h.post(ctx, q)
	if err != nil {
		return vending.Approval{}, fmt.Errorf("ask %s: %w", h.host, err)
	}
	approval, err := vending.ReadApproval(text)
	if err != nil {
		return vending.Approval{}, fmt.Errorf("ask %s: %w", h.host, err)
	}
	return approval, nil
}

func (h *HTTPS) post(ctx context.Context, q vending.ApprovalQuestion) ([]byte, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.config.URL, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the URL makes no request")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	if h.config.Token != "" {
		request.Header.Set("Authorization", "Bearer "+h.config.Token)
	}
	answer, err := h.client.Do(request)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, vending.MostApproval+1))
	switch {
	case err != nil:
		return nil, withoutURL(err)
	case answer.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("status %d", answer.StatusCode)
	case len(text) > vending.MostApproval:
		return nil, fmt.Errorf("the answer has more than %d octets", vending.MostApproval)
	}
	return text, nil
}

// withoutURL takes out the URL, which may be a secret.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}
