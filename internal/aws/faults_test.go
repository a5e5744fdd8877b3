package aws

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// way is how a call fails.
type way struct {
	name string
	fail func(next http.RoundTripper, r *http.Request) (*http.Response, error)
}

// ways are how a call fails. The last two are the worst: AWS has done what it
// was asked for, and nobody hears of it.
var ways = []way{
	{"throttled", func(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
		if strings.Contains(r.URL.Path, "/packages-") { // S3 says it so
			return answer(r, http.StatusServiceUnavailable, "SlowDown"), nil
		}
		if strings.Contains(r.URL.Path, "/devices/") { // and API Gateway so
			return answer(r, http.StatusTooManyRequests, "TooManyRequestsException"), nil
		}
		return answer(r, http.StatusBadRequest, "ThrottlingException"), nil
	}},
	{"server_error", func(_ http.RoundTripper, r *http.Request) (*http.Response, error) {
		return answer(r, http.StatusInternalServerError, "InternalFailureException"), nil
	}},
	{"timed_out_after_it_was_done", func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		return nil, lose(next, r, os.ErrDeadlineExceeded)
	}},
	{"reset_after_it_was_done", func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		return nil, lose(next, r, syscall.ECONNRESET)
	}},
}

// waysOf returns how the nth call is to fail: in every way, or in one of them
// where everything takes ten times as long.
func waysOf(n int) []way {
	if backendtest.RaceDetector {
		return ways[n%len(ways):][:1]
	}
	return ways
}

func answer(r *http.Request, status int, code string) *http.Response {
	body := fmt.Sprintf(`{"__type":%q,"message":"as the test wants it"}`, code)
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"X-Amzn-Errortype": {code}, "Content-Type": {"application/json"}},
		Body:   io.NopCloser(bytes.NewBufferString(body)), ContentLength: int64(len(body)),
	}
}

func lose(next http.RoundTripper, r *http.Request, why error) error {
	if answer, err := next.RoundTrip(r); err == nil {
		answer.Body.Close()
	}
	return why
}

// TestEveryCallFailsInTurn has each call of a rotation fail in each way, with
// every repetition that the SDK makes: the device, which asks again, gets one
// certificate, and when all is quiet nothing is ACTIVE but that.
func TestEveryCallFailsInTurn(t *testing.T) {
	for _, mode := range []certificate.Mode{certificate.Deactivate, certificate.Delete} {
		calls := callsOf(t, mode)
		for n, call := range calls {
			for _, way := range waysOf(n) {
				t.Run(fmt.Sprintf("%s/%02d_%s/%s", mode, n+1, call, way.name), func(t *testing.T) {
					t.Parallel()
					f := &faulty{at: n + 1 + openingCalls, fail: way.fail}
					c := newCourse(t, mode, func(next http.RoundTripper) http.RoundTripper {
						f.next = next
						return f
					})
					c.wantWhole(c.rotate())
					if f.failed == "" || f.left > 0 && way.name == "throttled" {
						t.Errorf("the call was not made, or not repeated: %d attempts are left", f.left)
					}
				})
			}
		}
	}
}

// openingCalls are made while a course is prepared: who are we, and the group.
const openingCalls = 3

// callsOf returns the calls of a rotation that nothing disturbs, by what is
// called.
func callsOf(t *testing.T, mode certificate.Mode) []string {
	t.Helper()
	f := &faulty{}
	c := newCourse(t, mode, func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	})
	c.wantWhole(c.rotate())
	if len(f.calls) < openingCalls+8 {
		t.Fatalf("a rotation makes %d calls: nothing is tested", len(f.calls))
	}
	var calls []string
	for _, call := range f.calls[openingCalls:] {
		method, path, _ := strings.Cut(call, " ")
		parts := strings.Split(strings.Trim(path, "/"), "/")
		parts = slices.DeleteFunc(parts, func(p string) bool { return len(p) > 30 || p == courseThing })
		calls = append(calls, method+"-"+strings.Join(parts, "-"))
	}
	return calls
}

// counting counts what it signs.
type counting struct {
	vending.Issuer
	signed int
}

func (c *counting) Issue(ctx context.Context, order certificate.Order) (certificate.Certificate, error) {
	c.signed++
	return c.Issuer.Issue(ctx, order)
}

// TestIssuedOnce shows that where issuing has an effect outside, a get that
// failed after it goes on with what was issued, also after a crash.
func TestIssuedOnce(t *testing.T) {
	for n, call := range []string{"register", "policy", "attach"} {
		t.Run(call, func(t *testing.T) {
			f := &faulty{at: openingCalls + 5 + n, fail: ways[3].fail}
			issuer := &counting{}
			c := newCourse(t, certificate.Deactivate, func(next http.RoundTripper) http.RoundTripper {
				f.next = next
				return f
			}, func(config *Config) {
				issuer.Issuer, _ = config.Issuer(nil)
				config.Issuer, config.ActsOutside = given(issuer), true
			})
			csr := string(protocol.Encode(map[string]string{"csr": backendtest.CSR(c.key, courseThing)}))
			c.vendor.Serve(c.ctx, vending.Message{
				Topic: protocol.DefaultTopics().Request(courseThing, protocol.Get), Payload: []byte(csr),
				Caller: vending.Caller{Device: courseThing, Certificate: c.old, Evidence: certificate.Connection},
			})
			if len(c.replies) != 1 || c.replies[0].accepted() {
				t.Fatalf("the call %q was to fail: %v", f.failed, c.replies)
			}
			if err := c.world.inventory.Settle(c.ctx); err != nil { // as after a crash
				t.Fatal(err)
			}
			c.wantWhole(c.rotate())
			if issuer.signed != 1 {
				t.Errorf("%d certificates were issued for one key", issuer.signed)
			}
		})
	}
}

// TestLateRemovalFailsInTurn is TestEveryCallFailsInTurn for what is removed after a
// grace, when AWS is asked first what it has, and who has connected.
func TestLateRemovalFailsInTurn(t *testing.T) {
	for _, mode := range []certificate.Mode{certificate.Deactivate, certificate.Delete} {
		for _, way := range ways {
			t.Run(fmt.Sprintf("%s/%s", mode, way.name), func(t *testing.T) {
				t.Parallel()
				var failed []string
				for n := 1; ; n++ {
					call := lateRemoval(t, mode, way.fail, n)
					if call == "" {
						break
					}
					failed = append(failed, call)
				}
				all := strings.Join(failed, "\n")
				for _, call := range []string{"DynamoDB_20120810.Query", "GET /certificates/", "GET /principals/things", "PUT /certificates/"} {
					if !strings.Contains(all, call) {
						t.Errorf("%s did not fail: %s", call, all)
					}
				}
			})
		}
	}
}

// lateRemoval has one call of a removal after a grace fail, and returns its name,
// or none where there are fewer calls.
func lateRemoval(t *testing.T, mode certificate.Mode, fail func(http.RoundTripper, *http.Request) (*http.Response, error), n int) string {
	t.Helper()
	f := &faulty{fail: fail}
	c := newCourse(t, mode, func(next http.RoundTripper) http.RoundTripper {
		f.next = next
		return f
	}, func(config *Config) {
		config.Presence = NewPresence(config.Clients.Dynamo, PresenceTable("certvendor"), config.Now)
	})
	withTable(t, c.clients, c.clock.Now)
	c.grace = time.Hour
	c.serve()
	vended := c.turn()
	writes(t, c.clients, connectedSQL, event(courseThing, "", string(vended), c.clock.Now()))
	c.clock.Advance(2 * time.Hour)
	f.mu.Lock()
	f.at = len(f.calls) + n
	f.mu.Unlock()
	_, _ = c.closer.Sweep(c.ctx) // what fails is done by the next
	failed := f.failed
	c.quiet(vended)
	c.wantWhole(vended)
	return failed
}
