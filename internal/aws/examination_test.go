package aws

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/store/storetest"
)

// TestExamination sits the examination of every world, with a CA key in this
// process and AWS played by moto.
func TestExamination(t *testing.T) {
	motoURL(t)
	backendtest.Run(t, func(t *testing.T, clock *backendtest.Clock) backendtest.World {
		account := newAccount()
		clients := dialMoto(t, account, nil)
		prepareAccount(t, account, clients, "given", "device")
		config := testConfig(account, clients, clock.Now, t.TempDir())
		config.Issuer = given(softwareCA(t, clock.Now))
		return examinedWorld(t, config, nil)
	})
}

// examinedWorld opens a world, with a bus in between where one is given.
func examinedWorld(t *testing.T, config Config, bus *examinedBus) backendtest.World {
	t.Helper()
	w := openWorld(t, config)
	if err := w.inventory.Settle(t.Context()); err != nil { // as Start does
		t.Fatal(err)
	}
	world := backendtest.World{
		Backend: w.Backend(),
		Crash: func() backendtest.World {
			config.Data = storetest.Killed(t, config.Data, storeFile)
			return examinedWorld(t, config, bus)
		},
		Slow:  true,
		Fetch: func(link string) (int, []byte) { return fetch(t, config, link) },
	}
	if bus != nil {
		world.Carry = bus.carry
	}
	return world
}

// fetch does what S3 does with a link: moto serves it whatever its signature
// and its age.
func fetch(t *testing.T, config Config, link string) (int, []byte) {
	t.Helper()
	if !genuine(t, config, link) {
		return http.StatusForbidden, nil
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := config.Clients.Config.HTTPClient
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, body
}

// genuine reports whether a link is signed with the world's credentials and
// works at the world's time.
func genuine(t *testing.T, config Config, link string) bool {
	t.Helper()
	asked, err := url.Parse(link)
	if err != nil {
		return false
	}
	query := asked.Query()
	signed, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	if err != nil {
		return false
	}
	seconds, err := strconv.Atoi(query.Get("X-Amz-Expires"))
	if err != nil || config.Now().After(signed.Add(time.Duration(seconds)*time.Second)) {
		return false
	}
	for name := range query {
		switch name {
		case "X-Amz-Signature", "X-Amz-Date", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-SignedHeaders":
			query.Del(name)
		}
	}
	again := *asked
	again.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, again.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	own, err := config.Clients.Config.Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).PresignHTTP(
		t.Context(), own, request, "UNSIGNED-PAYLOAD", "s3", config.Clients.Config.Region, signed)
	if err != nil {
		t.Fatal(err)
	}
	wanted, err := url.Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	return wanted.Query().Get("X-Amz-Signature") == asked.Query().Get("X-Amz-Signature")
}
