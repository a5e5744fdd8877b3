package aws

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// furtherCourse is a rotation that calls what another does not.
type furtherCourse struct {
	// calls are what its names of calls hold; each must be among them.
	calls []string
	// change arranges the world; AWS's answers come from moto, or from what it
	// returns, for the requests to that host.
	change func(*testing.T, *faulty, *Config)
	rotate func(*course) certificate.ID
	check  func(*testing.T, *course)
}

func furtherCourses() map[string]furtherCourse {
	csr := func(c *course) certificate.ID { return c.rotate() }
	fine := func(*testing.T, *course) {}
	later := func(t *testing.T, c *course) { // whatever has failed will work again
		for _, r := range c.replies {
			if !r.accepted() && r.Message != protocol.TryAgainLater {
				t.Errorf("a device was told %s", r.Message)
			}
		}
	}
	return map[string]furtherCourse{
		"ssm": {[]string{"GET /cacertificate/", "AmazonSSM.GetParameter"}, signsBySSM, csr, later},
		"kms": {[]string{"GET /cacertificate/", "TrentService.GetPublicKey", "TrentService.Sign"}, signsByKMS, csr, later},
		"pca": {[]string{"ACMPrivateCA.DescribeCertificateAuthority", "ACMPrivateCA.IssueCertificate", "ACMPrivateCA.GetCertificate"}, signsByPCA, csr, later},
		"package": {[]string{"HEAD /packages-", "PUT /certificates/", "DELETE /packages-"}, func(*testing.T, *faulty, *Config) {},
			rotatesByPackage, packageIsGone},
		"lambda": {[]string{"/functions/assets/invocations"}, asksAFunction, csr, fine},
		"https":  {[]string{"GET /live/devices/", "PATCH /live/devices/"}, asksByHTTPS, csr, fine},
	}
}

// TestEveryFurtherCallFailsInTurn is TestEveryCallFailsInTurn for the calls of
// each issuer, of packages, and of a registry behind a function or an API.
func TestEveryFurtherCallFailsInTurn(t *testing.T) {
	for name, further := range furtherCourses() {
		for n, call := range further.play(t, &faulty{}) {
			if !slices.ContainsFunc(further.calls, func(part string) bool { return strings.Contains(call, part) }) {
				continue
			}
			for _, way := range waysOf(n) {
				t.Run(fmt.Sprintf("%s/%02d_%s/%s", name, n+1, nameOf(call), way.name), func(t *testing.T) {
					t.Parallel()
					f := &faulty{at: n + 1, fail: way.fail}
					further.play(t, f)
					if nameOf(f.failed)[:12] != nameOf(call)[:12] { // ids differ
						t.Errorf("%q has failed, not %q", f.failed, call)
					}
				})
			}
		}
	}
}

func nameOf(call string) string {
	return strings.NewReplacer("/", "-", " ", "").Replace(call[:min(len(call), 24)])
}

// play plays the course with a fault, checks what is left, and returns the calls
// that were made.
func (further furtherCourse) play(t *testing.T, f *faulty) []string {
	t.Helper()
	c := newCourse(t, certificate.Deactivate, func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	}, func(config *Config) { further.change(t, f, config) })
	c.wantWhole(further.rotate(c))
	further.check(t, c)
	for _, part := range further.calls {
		if !slices.ContainsFunc(f.calls, func(call string) bool { return strings.Contains(call, part) }) {
			t.Fatalf("nothing calls %s: %v", part, f.calls)
		}
	}
	return slices.Clone(f.calls)
}

func signsBySSM(t *testing.T, _ *faulty, config *Config) {
	key := ecKey(t)
	clients := dialMoto(t, accountOf(t, config), nil)
	id := registerCA(t, clients, caOf(t, "mill", key.Public(), nil, key, 10))
	_, err := clients.SSM.PutParameter(t.Context(), &ssm.PutParameterInput{
		Name: new(KeyParameter(id)), Type: ssmtypes.ParameterTypeSecureString, Value: new(keyPEM(t, key)),
	})
	if err != nil {
		t.Fatal(err)
	}
	config.Issuer = func(*store.Store) (vending.Issuer, error) {
		return NewKeyIssuer(KeyIssuerConfig{
			CA: config.Clients.IoT, ID: id, Key: ParameterKey{SSM: config.Clients.SSM, Name: KeyParameter(id)}, Now: config.Now,
		})
	}
}

// accountOf returns the number of a world's account, which its bucket is named
// after.
func accountOf(t *testing.T, config *Config) string {
	t.Helper()
	account, is := strings.CutPrefix(config.Packages.Bucket, testBucket(""))
	if !is {
		t.Fatalf("bucket %s", config.Packages.Bucket)
	}
	return account
}

// alsoFrom has the requests to a double of the issuers go through the fault too.
func alsoFrom(t *testing.T, f *faulty, d *double, config *Config) *Clients {
	t.Helper()
	at, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	f.next = byHost{at.Host, http.DefaultTransport, f.next}
	own := config.Clients.Config.Copy()
	own.BaseEndpoint = &d.url
	return &Clients{IoT: iot.NewFromConfig(own), KMS: kms.NewFromConfig(own), PCA: acmpca.NewFromConfig(own)}
}

// byHost sends the requests to one host elsewhere.
type byHost struct {
	host      string
	to        http.RoundTripper
	otherwise http.RoundTripper
}

func (b byHost) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == b.host {
		return b.to.RoundTrip(r)
	}
	return b.otherwise.RoundTrip(r)
}

func signsByKMS(t *testing.T, f *faulty, config *Config) {
	d := startDouble(t, ecKey(t))
	clients := alsoFrom(t, f, d, config)
	config.ActsOutside = true
	config.Issuer = func(*store.Store) (vending.Issuer, error) {
		return NewKeyIssuer(KeyIssuerConfig{CA: clients.IoT, ID: d.caID(), Key: KMSKey{KMS: clients.KMS, ID: "k"}, Now: config.Now})
	}
}

// signsByPCA fails the test if ACM PCA is paid twice.
func signsByPCA(t *testing.T, f *faulty, config *Config) {
	d := startDouble(t, ecKey(t))
	d.polls = 1
	clients := alsoFrom(t, f, d, config)
	config.ActsOutside = true
	config.Issuer = func(s *store.Store) (vending.Issuer, error) {
		return NewPCAIssuer(PCAConfig{
			CAs: []PCA{{ARN: fakeCA, Client: clients.PCA}}, Notes: s, Patience: 10 * time.Second, Poll: time.Millisecond, Now: config.Now,
		})
	}
	t.Cleanup(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if len(d.arns) != 1 {
			t.Errorf("ACM PCA has made %d certificates for one key", len(d.arns))
		}
	})
}

// rotatesByPackage takes the device from its old certificate to that of its
// package.
func rotatesByPackage(c *course) certificate.ID {
	c.t.Helper()
	c.must(c.world.group.Add(c.ctx, courseThing))
	waiting := c.pack(softwareCA(c.t, c.clock.Now), "certificates/"+courseThing+".zip", func(id certificate.ID) map[string]string {
		return map[string]string{certificateKey: string(id)}
	})
	if got := c.ask(c.old, protocol.Get, ""); got.CertificateID != waiting {
		c.t.Errorf("got %s, want %s", got.CertificateID, waiting)
	}
	c.ask(waiting, protocol.Ack, "{}")
	c.quiet(waiting)
	return waiting
}

func packageIsGone(t *testing.T, c *course) {
	t.Helper()
	_, err := c.clients.S3.HeadObject(c.ctx, &s3.HeadObjectInput{
		Bucket: &c.world.config.Packages.Bucket, Key: new("certificates/" + courseThing + ".zip"),
	})
	if !isNotFound(err) {
		t.Errorf("the package is there still: %v", err)
	}
}

// asksAFunction puts an Asset Library that knows every device behind a function.
func asksAFunction(_ *testing.T, f *faulty, config *Config) {
	config.Registry, config.Assets = AssetsSource, AssetLibrary{Function: "assets", Attribute: "status"}
	config.Clients.Lambda = lambda.NewFromConfig(config.Clients.Config)
	f.next = assetFunction{f.next}
}

type assetFunction struct{ otherwise http.RoundTripper }

func (a assetFunction) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.Contains(r.URL.Path, "/functions/") {
		return a.otherwise.RoundTrip(r)
	}
	var event struct{ HTTPMethod string }
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		return nil, err
	}
	text := `{"statusCode":200,"body":"{\"attributes\":{}}"}`
	if event.HTTPMethod == http.MethodPatch {
		text = `{"statusCode":204,"body":""}`
	}
	return &http.Response{
		StatusCode: 200, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)),
	}, nil
}

// asksByHTTPS puts an Asset Library that knows every device behind an API, and
// fails the test if the library is not told in the end that the device is
// active, or is asked by somebody unsigned.
func asksByHTTPS(t *testing.T, f *faulty, config *Config) {
	var told atomic.Bool
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !strings.Contains(r.Header.Get("Authorization"), "/execute-api/aws4_request") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if r.Method == http.MethodPatch {
			told.Store(string(body) == `{"attributes":{"status":"active"}}`)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		fmt.Fprint(w, `{"attributes":{}}`)
	}))
	t.Cleanup(func() {
		server.Close()
		if !told.Load() {
			t.Error("the library was not told that the device is active")
		}
	})
	at, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	f.next = byHost{at.Host, server.Client().Transport, f.next}
	config.Registry, config.Assets = AssetsSource, AssetLibrary{URL: server.URL + "/live", Attribute: "status", HTTP: &http.Client{Transport: f}}
}
