package standalone

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/certvendor/certvendor/certificate/issuing"
)

// The time of a server certificate of our own, and the part of it after which
// it is replaced.
const (
	serverValidity = 90 * 24 * time.Hour
	serverRenewal  = serverValidity * 2 / 3
	serverBackdate = time.Hour
)

// server is where the listeners' certificate comes from.
type server interface {
	current() (*tls.Certificate, error)
	where() string
}

// madeServer makes the certificate itself. Its key never leaves memory.
type madeServer struct {
	parent *x509.Certificate
	key    crypto.Signer
	names  []string
	now    func() time.Time

	mu    sync.Mutex
	made  *tls.Certificate
	renew time.Time
}

func (s *madeServer) where() string { return "memory" }

// current renews when it is asked in time to, so that no goroutine has to
// watch the clock. If renewing fails, the old certificate serves to its end.
func (s *madeServer) current() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.made != nil && now.Before(s.renew) && now.After(s.made.Leaf.NotBefore) {
		return s.made, nil
	}
	made, err := s.sign(now)
	if err != nil {
		if s.made != nil && now.Before(s.made.Leaf.NotAfter) {
			return s.made, nil
		}
		return nil, fmt.Errorf("make the server certificate: %w", err)
	}
	s.made, s.renew = made, now.Add(serverRenewal)
	return made, nil
}

func (s *madeServer) sign(now time.Time) (*tls.Certificate, error) {
	template, err := serverTemplate(s.names)
	if err != nil {
		return nil, err
	}
	if now.After(s.parent.NotAfter) {
		return nil, fmt.Errorf("the server CA has expired on %s", s.parent.NotAfter.UTC().Format(time.DateOnly))
	}
	template.NotBefore = now.Add(-serverBackdate).UTC()
	template.NotAfter = now.Add(serverValidity).UTC()
	if template.NotAfter.After(s.parent.NotAfter) {
		template.NotAfter = s.parent.NotAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = issuing.Serial(); err != nil {
		return nil, err
	}
	if template.SubjectKeyId, err = issuing.SubjectKeyID(key.Public()); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.parent, key.Public(), s.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// serverTemplate is the profile of a server certificate for some names. The
// first name is its common name too: some small TLS stacks look nowhere else.
func serverTemplate(names []string) (*x509.Certificate, error) {
	if len(names) == 0 {
		return nil, errors.New("standalone.names: at least one name is needed")
	}
	template := &x509.Certificate{
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		if !isHostName(name) {
			return nil, fmt.Errorf("standalone.names: %q is neither a host name nor an address", name)
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	if len(names[0]) <= 64 { // RFC 5280, appendix A.1, ub-common-name
		template.Subject = pkix.Name{CommonName: names[0]}
	}
	return template, nil
}

// isHostName reports whether a name may be a dNSName (RFC 1123, 2.1, with the
// underscore that real networks use).
func isHostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return true
}

// fileServer serves a certificate from files, and follows them.
type fileServer struct {
	file, key string
	now       func() time.Time

	mu     sync.Mutex
	loaded *tls.Certificate
	stamp  time.Time // of the certificate file, when it was loaded
	looked time.Time
}

// lookEvery is how often the files are looked at.
const lookEvery = time.Minute

func (s *fileServer) where() string { return s.key }

// current loads the files again when the certificate has changed. Files that
// do not belong together, as in the middle of being replaced, are left for
// the next look while what was loaded before serves on.
func (s *fileServer) current() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.loaded != nil && now.Sub(s.looked).Abs() < lookEvery {
		return s.loaded, nil
	}
	s.looked = now
	info, err := os.Stat(s.file)
	if err == nil && (s.loaded == nil || !info.ModTime().Equal(s.stamp)) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(s.file, s.key); err == nil {
			s.loaded, s.stamp = &pair, info.ModTime()
		}
	}
	if s.loaded == nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	return s.loaded, nil
}

func loadServerFiles(config CAConfig) (*served, error) {
	if config.ServerCertificate == "" || config.ServerKey == "" {
		return nil, errors.New("server certificate: a certificate file and a key file go together")
	}
	files := &fileServer{file: config.ServerCertificate, key: config.ServerKey, now: config.Now}
	if _, err := files.current(); err != nil {
		return nil, err
	}
	roots := config.ServerCA
	if roots == "" {
		roots = config.ServerCertificate
	}
	chain, err := readCertificates(roots)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	if config.ServerCA == "" && len(chain) > 1 {
		chain = chain[1:]
	}
	return &served{server: files, roots: encodeCertificates(chain)}, nil
}
