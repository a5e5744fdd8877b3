package device

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// What a package may cost. One holds a few kilobytes of PEM.
const (
	maxPackage     = 1 << 20 // octets of the zip
	maxMember      = 64 << 10
	packageTimeout = time.Minute
)

// obtainPackage gets a pair that was made in advance: it asks for the link,
// downloads, and stores the pair as the candidate. A link that does not serve
// is asked for anew.
func (a *Agent) obtainPackage(ctx context.Context, c *connection, w work) error {
	var reply protocol.GetAccepted
	r := request{action: protocol.Get, topics: w.topics, take: func(payload []byte) error {
		reply = protocol.GetAccepted{}
		if err := protocol.Decode(payload, &reply); err != nil {
			return err
		}
		if reply.Location == "" {
			return errors.New("the answer holds no link")
		}
		return nil
	}}
	if err := a.listenFor(ctx, c, r); err != nil {
		return err
	}
	return a.persist(ctx, func() (int, error) {
		if retryAfter, err := a.askOnce(ctx, c, r); err != nil {
			return retryAfter, err
		}
		if err := a.takeAnchors(reply.TrustAnchors); err != nil {
			return 0, err
		}
		p, err := a.fetch(ctx, reply.Location)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errNotYet, err)
		}
		return 0, a.adopt(w, p, reply)
	})
}

func (a *Agent) adopt(w work, p pair, reply protocol.GetAccepted) error {
	id := reply.CertificateID
	if id == "" {
		id = idOf(p)
	}
	next := w.candidate()
	next.CertificateID, next.Nonce = id, reply.Nonce
	if err := a.store.adopt(next, p); err != nil {
		return err
	}
	a.tell(Event{Kind: CertificateStored, Job: w.job.ID, CertificateID: id})
	return nil
}

// fetch downloads and opens a package. Its errors never hold the link, which
// is as good as the key it leads to.
func (a *Agent) fetch(ctx context.Context, link string) (pair, error) {
	content, err := a.download(ctx, link)
	if err != nil {
		var withLink *url.Error
		if errors.As(err, &withLink) {
			err = withLink.Err
		}
		return pair{}, fmt.Errorf("download the package: %w", err)
	}
	p, err := unpack(content)
	if err != nil {
		return pair{}, fmt.Errorf("open the package: %w", err)
	}
	return p, check(p)
}

func (a *Agent) download(ctx context.Context, link string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, packageTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, link, nil)
	if err != nil {
		return nil, errors.New("the link is not a URL")
	}
	if request.URL.Scheme != "https" {
		return nil, errors.New("the link is not https")
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: a.packageRoots(), Time: a.clock}
	content, err := load(request, cfg)
	if moment, ok := a.notYet(err); ok {
		return load(request, at(cfg, moment))
	}
	return content, err
}

func load(request *http.Request, cfg *tls.Config) ([]byte, error) {
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   cfg,
		DisableKeepAlives: true,
		ForceAttemptHTTP2: true,
	}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a link leads to the package, not elsewhere
	}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // read to its end or given up
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered %d", response.StatusCode)
	}
	return readAtMost(response.Body, maxPackage)
}

// unpack reads the two members that matter: certificate.pem and private.key.
func unpack(content []byte) (pair, error) {
	archive, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return pair{}, err
	}
	keyText, err := member(archive, keyFile)
	if err != nil {
		return pair{}, err
	}
	chainText, err := member(archive, certificateFile)
	if err != nil {
		return pair{}, err
	}
	var p pair
	if p.key, err = ParseKey(keyText); err != nil {
		return pair{}, err
	}
	p.chain, err = decodeChain(chainText)
	return p, err
}

func member(archive *zip.Reader, name string) ([]byte, error) {
	file, err := archive.Open(name)
	if err != nil {
		return nil, err
	}
	content, err := readAtMost(file, maxMember)
	return content, errors.Join(err, file.Close())
}

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("more than %d octets", limit)
	}
	return content, nil
}
