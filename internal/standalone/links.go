package standalone

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// linkPath is where links lead, below their base.
const linkPath = "/packages/"

// links signs links and tells its own from others. Whoever holds a link can
// fetch the package: a link is a secret.
type links struct {
	key  []byte
	base string
	ttl  time.Duration
	now  func() time.Time
}

// LinkBase returns what links begin with: the URL that was configured, or
// else the first of the listeners' names with the port listened on.
func LinkBase(configured string, names []string, listener net.Addr) (string, error) {
	if configured == "" {
		_, port, err := net.SplitHostPort(listener.String())
		if err != nil || len(names) == 0 {
			return "", errors.New("packages.url: needed where there is neither a name nor a port to make links from")
		}
		return "https://" + net.JoinHostPort(names[0], port), nil
	}
	u, err := url.Parse(configured)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("packages.url: %.80q is not https://host[:port][/path]", configured)
	}
	return strings.TrimRight(configured, "/"), nil
}

// to returns a new link to a package's file. It serves for at least the
// lifetime: the whole second in which that ends counts.
func (l links) to(name string) string {
	expires := strconv.FormatInt(l.now().Add(l.ttl+time.Second-1).Unix(), 10)
	return l.base + linkPath + name + "?" + l.query(name, expires)
}

// query is the one spelling of a valid link's query.
func (l links) query(name, expires string) string {
	return "expires=" + expires + "&signature=" + l.sign(name, expires)
}

func (l links) sign(name, expires string) string {
	mac := hmac.New(sha256.New, l.key)
	fmt.Fprintf(mac, "certvendor-link-v1\n%s\n%s\n%s", http.MethodGet, name, expires)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

var (
	linkName  = regexp.MustCompile(`^/packages/([0-9a-f]{64})$`)
	linkQuery = regexp.MustCompile(`^expires=([1-9][0-9]{0,11})&signature=[A-Za-z0-9_-]{43}$`)
)

// check returns which package's file a request may read. Only the spelling
// that was handed out is valid: there is one path and one query for each.
func (l links) check(u *url.URL) (name string, ok bool) {
	path, query := linkName.FindStringSubmatch(u.EscapedPath()), linkQuery.FindStringSubmatch(u.RawQuery)
	if path == nil || query == nil {
		return "", false
	}
	if !hmac.Equal([]byte(u.RawQuery), []byte(l.query(path[1], query[1]))) {
		return "", false
	}
	expires, err := strconv.ParseInt(query[1], 10, 64)
	if err != nil || l.now().Unix() > expires {
		return "", false
	}
	return path[1], true
}

// linkKey reads the key that links are signed with, or makes it. Deleting the
// file voids every link, and nothing else.
func linkKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if err == nil {
		if len(key) != sha256.Size {
			return nil, fmt.Errorf("%s has %d octets instead of %d: delete it, a new one is made", path, len(key), sha256.Size)
		}
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key = make([]byte, sha256.Size)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return key, writeFile(path, key, 0o600)
}

// ServeHTTP serves packages by their links. Whatever is wrong with a link, the
// answer is the same: it does not tell which part, nor whether the package
// exists. How long a transfer may take is the server's to limit.
func (p *Packages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	name, ok := p.links.check(r.URL)
	if !ok {
		forbid(w)
		return
	}
	f, err := os.Open(p.path(name, liveSuffix))
	if err != nil {
		forbid(w)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > MaxPackage {
		forbid(w)
		return
	}
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	// A device that hangs up midway asks again: nothing to report.
	_, _ = io.CopyN(w, f, info.Size())
}

func forbid(w http.ResponseWriter) {
	http.Error(w, "this link is not valid, or not any more", http.StatusForbidden)
}
