package standalone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// gate is a package store behind a real TLS listener.
type gate struct {
	*depot
	client *http.Client
}

func openGate(t *testing.T) *gate {
	t.Helper()
	_, ca := madeCA(t, caConfig(newClock()))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	base, err := LinkBase("", []string{"127.0.0.1"}, listener.Addr())
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{depot: openDepot(t, func(c *PackagesConfig) { c.Base = base })}
	server := &http.Server{Handler: g.Packages, TLSConfig: &tls.Config{GetCertificate: ca.GetCertificate}}
	done := make(chan error, 1)
	go func() { done <- server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-done
	})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.ServerRoots())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	t.Cleanup(transport.CloseIdleConnections)
	g.client = &http.Client{Transport: transport, Timeout: time.Minute}
	return g
}

func (g *gate) link() string {
	g.t.Helper()
	link, err := g.Link(context.Background(), packaged, oneID)
	if err != nil {
		g.t.Fatal(err)
	}
	return link
}

func (g *gate) fetch(method, link string) (*http.Response, string) {
	g.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, link, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	response, err := g.client.Do(request)
	if err != nil {
		g.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return response, string(body)
}

func (g *gate) checkServed(link string) {
	g.t.Helper()
	response, body := g.fetch(http.MethodGet, link)
	if response.StatusCode != http.StatusOK || body != "zip one" {
		g.t.Fatalf("%s, %q", response.Status, body)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "Content-Type": "application/zip", "X-Content-Type-Options": "nosniff"} {
		if got := response.Header.Get(name); got != want {
			g.t.Errorf("%s: %q", name, got)
		}
	}
}

// refusal is the answer to whatever is wrong with a link, whole.
const refusal = "403 text/plain; charset=utf-8 no-store this link is not valid, or not any more\n"

func (g *gate) checkRefused(link string) {
	g.t.Helper()
	response, body := g.fetch(http.MethodGet, link)
	got := strings.Join([]string{strconv.Itoa(response.StatusCode), response.Header.Get("Content-Type"), response.Header.Get("Cache-Control"), body}, " ")
	if got != refusal {
		g.t.Errorf("%q, want %q", got, refusal)
	}
}

func TestLinkServesThePackage(t *testing.T) {
	g := openGate(t)
	g.put(oneID, "zip one")
	link := g.link()
	for range 3 { // any number of times
		g.checkServed(link)
	}
	if strings.Contains(link, string(packaged)) || strings.Contains(link, string(oneID)) {
		t.Errorf("the link tells whose it is: %s", link)
	}
}

func TestLinkServesItsWholeLifetimeAndNoLonger(t *testing.T) {
	g := openGate(t)
	g.put(oneID, "zip one")
	link := g.link()
	g.clock.forward(299 * time.Second)
	g.checkServed(link)
	g.clock.forward(3 * time.Second)
	g.checkRefused(link)
	g.checkServed(g.link())
}

func TestLinkToASpentPackage(t *testing.T) {
	g := openGate(t)
	g.put(oneID, "zip one")
	link := g.link()
	g.spend(oneID)
	g.checkRefused(link)
}

func TestLinkToAReplacedPackage(t *testing.T) {
	g := openGate(t)
	g.put(oneID, "zip one")
	link := g.link()
	g.put(twoID, "zip two")
	g.checkRefused(link)
}

func TestLinkOfAnotherKey(t *testing.T) {
	g := openGate(t)
	g.put(oneID, "zip one")
	link := g.link()
	if err := os.Remove(filepath.Join(g.data, packagesDir, linkKeyFile)); err != nil {
		t.Fatal(err)
	}
	other, err := OpenPackages(g.config, g.rows)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := other.links.check(u); ok {
		t.Error("served without the key it was signed with")
	}
}

func TestLinkThatWasAltered(t *testing.T) {
	g := openGate(t)
	g.put(oneID, "zip one")
	link := g.link()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	base, query := strings.TrimSuffix(link, u.RequestURI()), "?"+u.RawQuery
	expires, signature := u.Query().Get("expires"), u.Query().Get("signature")
	later, err := strconv.Atoi(expires)
	if err != nil {
		t.Fatal(err)
	}
	other := linkPath + packageName(packaged, twoID)
	flipped := "A" + signature[1:]
	if flipped == signature {
		flipped = "B" + signature[1:]
	}
	for name, altered := range map[string]string{
		"another file":              base + other + query,
		"a later end":               base + u.Path + "?expires=" + strconv.Itoa(later+1) + "&signature=" + signature,
		"an earlier end":            base + u.Path + "?expires=" + strconv.Itoa(later-1) + "&signature=" + signature,
		"another signature":         base + u.Path + "?expires=" + expires + "&signature=" + flipped,
		"a shorter signature":       strings.TrimSuffix(link, link[len(link)-1:]),
		"a longer signature":        link + "A",
		"a padded signature":        link + "=",
		"no signature":              base + u.Path + "?expires=" + expires,
		"an empty signature":        base + u.Path + "?expires=" + expires + "&signature=",
		"no query":                  base + u.Path,
		"a zero before the end":     base + u.Path + "?expires=0" + expires + "&signature=" + signature,
		"a sign before the end":     base + u.Path + "?expires=%2B" + expires + "&signature=" + signature,
		"an end beyond all numbers": base + u.Path + "?expires=" + strings.Repeat("9", 30) + "&signature=" + signature,
		"members the other way":     base + u.Path + "?signature=" + signature + "&expires=" + expires,
		"a member more":             link + "&x=1",
		"a member twice":            link + "&expires=" + expires,
		"escaped":                   base + strings.Replace(u.Path, "/packages/", "/packages/%2e/", 1) + query,
		"upper case":                base + linkPath + strings.ToUpper(strings.TrimPrefix(u.Path, linkPath)) + query,
		"a slash more":              base + u.Path + "/" + query,
		"two slashes":               base + "/" + u.Path + query,
		"up and down":               base + linkPath + "../packages/" + strings.TrimPrefix(u.Path, linkPath) + query,
		"the suffix":                base + u.Path + liveSuffix + query,
		"the directory":             base + linkPath,
		"the root":                  base + "/",
		"the key of the links":      base + linkPath + linkKeyFile + query,
		"a very long query":         base + u.Path + "?" + strings.Repeat("x", 8000),
	} {
		t.Run(name, func(t *testing.T) {
			if altered == link {
				t.Fatal("not altered")
			}
			d := *g.depot
			d.t = t
			(&gate{depot: &d, client: g.client}).checkRefused(altered)
		})
	}
	g.checkServed(link)
}

func TestLinkWithAnotherMethod(t *testing.T) {
	g := openGate(t)
	g.put(oneID, "zip one")
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions} {
		for _, link := range []string{g.link(), "https://127.0.0.1:" + portOf(t, g.link()) + "/packages/x"} {
			response, body := g.fetch(method, link)
			if response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") != http.MethodGet || strings.Contains(body, "zip") {
				t.Errorf("%s: %s %q", method, response.Status, body)
			}
		}
	}
	g.checkServed(g.link())
}

func portOf(t *testing.T, link string) string {
	t.Helper()
	u, err := url.Parse(link)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

func TestFileThatIsNoPackage(t *testing.T) {
	g := openGate(t)
	g.put(oneID, "zip one")
	link := g.link()
	path := filepath.Join(g.data, packagesDir, file(oneID))
	if err := os.Truncate(path, MaxPackage+1); err != nil {
		t.Fatal(err)
	}
	g.checkRefused(link)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	g.checkRefused(link)
}

func TestLinkBase(t *testing.T) {
	address := &net.TCPAddr{IP: net.IPv4zero, Port: 8443}
	for name, test := range map[string]struct {
		configured string
		names      []string
		want       string // empty: an error
	}{
		"of the listener":     {"", []string{"gate.example", "127.0.0.1"}, "https://gate.example:8443"},
		"of an IPv6 listener": {"", []string{"::1"}, "https://[::1]:8443"},
		"no name":             {"", nil, ""},
		"configured":          {"https://cdn.example", []string{"gate.example"}, "https://cdn.example"},
		"with a path":         {"https://cdn.example:444/certs/", nil, "https://cdn.example:444/certs"},
		"not HTTPS":           {"http://cdn.example", nil, ""},
		"no host":             {"https:///certs", nil, ""},
		"with a query":        {"https://cdn.example/?a=b", nil, ""},
		"with a fragment":     {"https://cdn.example/#a", nil, ""},
		"with a password":     {"https://a:b@cdn.example", nil, ""},
		"no URL":              {"https://cdn.example:port", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := LinkBase(test.configured, test.names, address)
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%q, %v, want %q", got, err, test.want)
			}
		})
	}
}

// Whatever the input, only the exact spelling of a link that was handed out
// is served, and everything else gets the one refusal.
func FuzzLink(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	l := links{key: make([]byte, 32), base: "https://gate.example", ttl: time.Minute, now: func() time.Time { return now }}
	name := packageName(packaged, oneID)
	valid := strings.TrimPrefix(l.to(name), l.base)
	p := &Packages{dir: f.TempDir(), links: l}
	if err := os.WriteFile(p.path(name, liveSuffix), []byte("zip one"), 0o600); err != nil {
		f.Fatal(err)
	}
	path, query, _ := strings.Cut(valid, "?")
	f.Add(path, query)
	f.Add(path+"/", query)
	f.Add("/packages/../packages/"+name, query)
	f.Add(path, query+"&x")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, path, query string) {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: query}})
		served := w.Code == http.StatusOK && w.Body.String() == "zip one"
		if exact := path+"?"+query == valid; served != exact {
			t.Fatalf("served %v: %q %q", served, path, query)
		}
		if !served && (w.Code != http.StatusForbidden || !strings.HasSuffix(refusal, w.Body.String())) {
			t.Fatalf("%d %q", w.Code, w.Body)
		}
	})
}
