package standalone

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/internal/store"
)

// CAConfig says how the CA's files are kept and whom else the broker trusts.
type CAConfig struct {
	Passphrase []byte // of the key files; empty: they are not encrypted
	Now        func() time.Time
	// Names are the DNS names and addresses that devices reach the listeners
	// by. They go into the server certificate.
	Names []string
	// ServerCertificate and ServerKey are files used instead of a server
	// certificate of our own; both or neither. The first holds the chain,
	// leaf first. ServerCA is a file with what devices verify it by; empty:
	// what follows the leaf in ServerCertificate, or the leaf itself.
	ServerCertificate, ServerKey, ServerCA string
	// ClientCA are files with CAs whose certificates may connect besides our
	// own. Nothing is signed by them.
	ClientCA []string
}

// Names of the files of the CA, below caDir in the data directory.
const (
	caDir         = "ca"
	rootFile      = "root.crt"
	rootKeyFile   = "root.key"
	issuingFile   = "issuing.crt"
	issuingKey    = "issuing.key"
	serverCAFile  = "server-ca.crt"
	serverKeyFile = "server-ca.key"
)

// CA is the trust of a standalone world: a root whose key may be kept
// elsewhere, the issuing CA below it that signs for devices, those that signed
// for them before and are trusted still, and a hierarchy of its own for the
// servers. Methods are safe for concurrent use.
type CA struct {
	dir        string
	passphrase []byte
	root       *x509.Certificate // with issuer: what this CA was made with
	issuer     *x509.Certificate
	foreign    []*x509.Certificate
	entries    []CAEntry // of foreign CAs
	served     atomic.Pointer[served]
	notes      notes
	now        func() time.Time
	trust      atomic.Pointer[trust]
}

// notes collects what an operator should look at, one sentence each.
type notes struct{ all []string }

func (n *notes) warn(format string, args ...any) { n.all = append(n.all, fmt.Sprintf(format, args...)) }

// CAEntry describes a CA certificate, or the server certificate, for people.
type CAEntry struct {
	Role      string         `json:"role"` // root, intermediate, issuing, former, retired, server-ca, next-server-ca, server, client-ca
	Subject   string         `json:"subject"`
	ID        certificate.ID `json:"id"`
	NotAfter  time.Time      `json:"notAfter"`
	Key       string         `json:"key"` // the file; "offline" where it is not here, "memory" where it never was one, empty where it is not ours
	Encrypted bool           `json:"encrypted"`
	Retired   time.Time      `json:"retired,omitzero"` // of a CA that is not trusted any more
}

// soon is how long before the end of a CA certificate warnings begin.
const soon = 180 * 24 * time.Hour

// LoadCA reads the CA from a data directory, as it was made. It refuses a key
// that is not its certificate's, a wrong passphrase, and a hierarchy that does
// not hold together; the root's key is not needed. What should worry an operator
// without stopping anything is in Warnings.
func LoadCA(data string, config CAConfig) (*CA, error) {
	ca, err := readCA(data, config)
	if err != nil {
		return nil, err
	}
	first, err := ca.first()
	if err != nil {
		return nil, err
	}
	first.Issues = true
	if err := ca.Take([]store.Authority{first}); err != nil {
		return nil, err
	}
	return ca, ca.loadOthers(config, serverTurns{})
}

// readCA reads what this CA was made with, but for its keys. Take and loadOthers
// must follow.
func readCA(data string, config CAConfig) (*CA, error) {
	dir := filepath.Join(data, caDir)
	ca := &CA{dir: dir, passphrase: config.Passphrase, now: config.Now}
	var err error
	if ca.root, err = readCertificate(filepath.Join(dir, rootFile)); err != nil {
		return nil, fmt.Errorf("root CA: %w", err)
	}
	if ca.issuer, err = readCertificate(filepath.Join(dir, issuingFile)); err != nil {
		return nil, fmt.Errorf("issuing CA: %w", err)
	}
	return ca, nil
}

// loadOthers reads the servers' hierarchy, of which the store knows what came
// after the making, and whom else the broker trusts.
func (ca *CA) loadOthers(config CAConfig, turns serverTurns) error {
	if err := ca.takeServers(config, turns); err != nil {
		return err
	}
	return ca.loadForeign(config.ClientCA)
}

// first is the issuing CA that this CA was made with.
func (ca *CA) first() (store.Authority, error) {
	return store.NewAuthority([][]byte{ca.issuer.Raw, ca.root.Raw})
}

// Issuer is the certificate of the CA that issues now.
func (ca *CA) Issuer() *x509.Certificate { return ca.trust.Load().issuing.certificate }

// Authority is the CA that issues now.
func (ca *CA) Authority() *issuing.Authority { return ca.trust.Load().issuing.authority }

// Issue has the CA that issues now sign a certificate; see issuing.Authority.
func (ca *CA) Issue(ctx context.Context, order certificate.Order) (certificate.Certificate, error) {
	return ca.Authority().Issue(ctx, order)
}

// Signs returns until when what is issued now can last; see issuing.Authority.
func (ca *CA) Signs(ctx context.Context) (until time.Time, err error) {
	return ca.Authority().Signs(ctx)
}

// ClientPool returns a new pool of those whose certificates may connect. The
// issuing CAs are in it as if they were roots, so that a device that sends
// nothing but its leaf is let in.
func (ca *CA) ClientPool() *x509.CertPool { return ca.poolOf(ca.trust.Load()) }

func (ca *CA) poolOf(t *trust) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, i := range t.trusted {
		pool.AddCert(i.certificate)
	}
	for _, c := range ca.foreign {
		pool.AddCert(c)
	}
	return pool
}

// ServerRoots returns what devices verify the listeners by, as PEM: the
// content of ca.crt and of a package's ca.pem.
func (ca *CA) ServerRoots() []byte { return ca.served.Load().roots }

// GetCertificate returns the server certificate, for a tls.Config. One of our
// own lives in memory and is replaced by itself at two thirds of its time; one
// from files is read again when the file has changed.
func (ca *CA) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return ca.served.Load().server.current()
}

// DaysLeft returns how many days the issuing CA, or one above it, and the
// server certificate are still valid; less than zero when they are not.
func (ca *CA) DaysLeft() (issuingCA, serverCertificate float64) {
	issuingCA = ca.trust.Load().issuing.end().Sub(ca.now()).Hours() / 24
	if c, err := ca.served.Load().server.current(); err == nil {
		serverCertificate = c.Leaf.NotAfter.Sub(ca.now()).Hours() / 24
	}
	return issuingCA, serverCertificate
}

// Entries lists the certificates of the CA, for `ca show`.
func (ca *CA) Entries() []CAEntry {
	entries := slices.Concat(ca.trust.Load().entries, ca.served.Load().entries, ca.entries)
	if c, err := ca.served.Load().server.current(); err == nil {
		entries = append(entries, entry("server", c.Leaf, ca.served.Load().server.where(), false))
	}
	return entries
}

// Warnings says what an operator should look at, one sentence each.
func (ca *CA) Warnings() []string {
	return slices.Concat(ca.trust.Load().notes.all, ca.served.Load().notes.all, ca.notes.all)
}

func (ca *CA) add(role string, c *x509.Certificate, key string, encrypted bool) {
	ca.entries = append(ca.entries, entry(role, c, key, encrypted))
	ca.notes.ends(role, c, ca.now())
}

// ends warns of a certificate that has expired, or does so soon.
func (n *notes) ends(role string, c *x509.Certificate, now time.Time) {
	switch left := c.NotAfter.Sub(now); {
	case left < 0:
		n.warn("%s certificate %q has expired on %s", role, c.Subject, c.NotAfter.UTC().Format(time.DateOnly))
	case left < soon:
		n.warn("%s certificate %q expires on %s", role, c.Subject, c.NotAfter.UTC().Format(time.DateOnly))
	}
}

func entry(role string, c *x509.Certificate, key string, encrypted bool) CAEntry {
	return CAEntry{
		Role: role, Subject: c.Subject.String(), ID: certificate.IDOf(c.Raw),
		NotAfter: c.NotAfter.UTC(), Key: key, Encrypted: encrypted,
	}
}

func (ca *CA) loadForeign(files []string) error {
	for _, file := range files {
		found, err := readCertificates(file)
		if err != nil {
			return fmt.Errorf("standalone.client_ca: %w", err)
		}
		for _, c := range found {
			if !c.IsCA {
				return fmt.Errorf("standalone.client_ca: %s: %q is not a CA certificate", file, c.Subject)
			}
			ca.foreign = append(ca.foreign, c)
			ca.add("client-ca", c, "", false)
		}
	}
	return nil
}

// keyFile is a CA key that was read.
type keyFile struct {
	path      string
	key       crypto.Signer
	encrypted bool
}
