package aws

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/loopback"
)

// gateway is a front door like AWS IoT's: it lets signed WebSockets through to
// a broker, and computes the signature itself.
type gateway struct {
	t      *testing.T
	secret string
	token  string
	broker string // host:port of its plain WebSocket listener

	mu      sync.Mutex
	queries []url.Values
	refused int
	conns   []net.Conn
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	query := r.URL.Query()
	if r.URL.Path != "/mqtt" || r.Header.Get("Sec-WebSocket-Protocol") != "mqtt" || query.Get("X-Amz-Security-Token") != g.token ||
		query.Get("X-Amz-Signature") != g.signature(r.Host, query) {
		g.refused++
		w.WriteHeader(http.StatusForbidden)
		return
	}
	g.queries = append(g.queries, query)
	back, err := net.Dial("tcp", g.broker)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	front, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		g.t.Error(err)
		return
	}
	g.conns = append(g.conns, front, back)
	_ = r.Write(back)
	go func() { _, _ = io.Copy(back, buffered); _ = back.Close() }()
	go func() { _, _ = io.Copy(front, back); _ = front.Close() }()
}

// signature is AWS's signature version 4 of the handshake, written down from
// its description: what is signed is everything but the token and itself.
func (g *gateway) signature(host string, query url.Values) string {
	name, _, _ := net.SplitHostPort(host)
	signed := url.Values{}
	for key, values := range query {
		if key != "X-Amz-Signature" && key != "X-Amz-Security-Token" {
			signed[key] = values
		}
	}
	empty := sha256.Sum256(nil)
	canonical := "GET\n/mqtt\n" + signed.Encode() + "\nhost:" + name + "\n\nhost\n" + hex.EncodeToString(empty[:])
	_, scope, _ := strings.Cut(query.Get("X-Amz-Credential"), "/")
	sum := sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + g.secret)
	for _, part := range append(strings.Split(scope, "/"), strings.Join([]string{"AWS4-HMAC-SHA256", query.Get("X-Amz-Date"), scope, hex.EncodeToString(sum[:])}, "\n")) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return hex.EncodeToString(key)
}

func (g *gateway) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range g.conns {
		_ = conn.Close()
	}
	g.conns = nil
}

func (g *gateway) seen() []url.Values {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.queries)
}

func startGateway(t *testing.T, b *broker, g *gateway) *httptest.Server {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(b.path("server.pem"), b.path("server.key"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(g)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(func() { g.cut(); server.Close() })
	return server
}

// rotating gives other credentials at every call, as a role's do in time.
type rotating struct {
	gateway *gateway
	n       int
	err     error
}

func (r *rotating) Retrieve(context.Context) (awssdk.Credentials, error) {
	r.gateway.mu.Lock()
	defer r.gateway.mu.Unlock()
	r.n++
	r.gateway.token = fmt.Sprint("session/", r.n, "+=")
	return awssdk.Credentials{AccessKeyID: fmt.Sprint("AKIA", r.n), SecretAccessKey: r.gateway.secret, SessionToken: r.gateway.token}, r.err
}

// Every attempt to connect is signed anew, and what goes through is MQTT.
func TestSignedWebSocket(t *testing.T) {
	b, plain := startWebSocketBroker(t)
	g := &gateway{t: t, secret: "secret/1", broker: plain}
	server := startGateway(t, b, g)
	way := &SignedWebSocket{
		Endpoint: strings.Replace(strings.TrimPrefix(server.URL, "https://"), "127.0.0.1", "localhost", 1), Region: "eu-west-1",
		Credentials: &rotating{gateway: g}, Roots: b.authority.pool(), Now: time.Now,
	}
	r := newRig(t, b, func(c *MQTTConfig) { c.Way = &oneByOne{Way: way} })
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say(getTopic("pump-7"), "one")
	soon(t, "the reply", func() bool { return slices.Equal(pump.heard(""), []string{"one"}) })
	g.cut()
	soon(t, "it is back", func() bool { return len(g.seen()) >= 4 && r.bus.Ready() == nil })
	pump.say(getTopic("pump-7"), "two")
	soon(t, "the next reply", func() bool { return slices.Contains(pump.heard(""), "two") })
	keys := map[string]bool{}
	for _, query := range g.seen() {
		keys[query.Get("X-Amz-Credential")] = true
		if !strings.Contains(query.Get("X-Amz-Credential"), "/eu-west-1/iotdevicegateway/aws4_request") {
			t.Errorf("signed for %s", query.Get("X-Amz-Credential"))
		}
	}
	if len(keys) != len(g.seen()) || g.refused != 0 {
		t.Errorf("%d credentials in %d connections, %d refused", len(keys), len(g.seen()), g.refused)
	}
}

// oneByOne keeps two lines from taking each other's credentials.
type oneByOne struct {
	Way
	mu sync.Mutex
}

func (o *oneByOne) Open(ctx context.Context) (net.Conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.Way.Open(ctx)
}

func TestWebSocketThatIsRefused(t *testing.T) {
	b, plain := startWebSocketBroker(t)
	g := &gateway{t: t, secret: "secret", broker: plain}
	server := startGateway(t, b, g)
	credentials := &rotating{gateway: &gateway{secret: "other"}}
	way := &SignedWebSocket{
		Endpoint: strings.Replace(strings.TrimPrefix(server.URL, "https://"), "127.0.0.1", "localhost", 1), Region: "eu-west-1",
		Credentials: credentials, Roots: b.authority.pool(), Now: time.Now,
	}
	log := &brokerLog{}
	refusals := []error{}
	open := func() {
		conn, err := way.Open(context.Background())
		if err == nil {
			_ = conn.Close()
			t.Error("let in")
			return
		}
		refusals = append(refusals, err)
		logger := zerolog.New(log)
		logger.Warn().Err(err).Send()
	}
	open()
	if !strings.Contains(refusals[0].Error(), "iot:Connect") {
		t.Error(refusals[0])
	}
	way.Roots = newTestAuthority(t).pool()
	open()
	way.Endpoint = "localhost:1"
	open()
	credentials.err = errors.New("no role")
	open()
	for _, secret := range []string{"X-Amz", "session/", "Signature"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log repeats the URL: %s", log)
		}
	}
	if !way.Stale(time.Now().Add(-webSocketLife-time.Hour)) || way.Stale(time.Now()) {
		t.Error("a WebSocket lives for a day")
	}
}

// startWebSocketBroker starts a broker that has a listener for WebSockets too.
func startWebSocketBroker(t *testing.T) (*broker, string) {
	t.Helper()
	plain, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(plain)
	if err != nil {
		t.Fatal(err)
	}
	return startBroker(t, "allow_anonymous true", "listener "+port+" 127.0.0.1", "protocol websockets"), plain
}
