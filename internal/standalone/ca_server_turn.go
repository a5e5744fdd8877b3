package standalone

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// served is what the listeners show, and what devices verify them by, at one
// moment. It is never changed: another takes its place.
type served struct {
	server  server
	roots   []byte // with that of a CA that is prepared
	anchors string // roots, where devices have to be told of them
	sha256  string // of anchors
	waits   bool   // a CA is prepared
	entries []CAEntry
	notes   notes
}

// serverTurns are the changes of the servers' CA that the store knows of.
type serverTurns struct {
	later     []store.ServerAuthority // after the one that the world was made with
	abandoned bool                    // devices may trust one that was prepared and is not used
}

func (w *World) serverTurns(ctx context.Context) (serverTurns, error) {
	later, err := w.store.Anchors().List(ctx)
	if err != nil {
		return serverTurns{}, err
	}
	abandoned, err := w.store.Anchors().Abandoned(ctx)
	return serverTurns{later, abandoned != ""}, err
}

// takeServers makes the servers' hierarchy what the configuration says, or else
// the store: the CA on disk or the last one that came after it.
func (ca *CA) takeServers(config CAConfig, turns serverTurns) error {
	if config.ServerCertificate != "" || config.ServerKey != "" {
		s, err := loadServerFiles(config)
		if err == nil {
			ca.served.Store(s)
		}
		return err
	}
	s := &served{}
	parent, err := readCertificate(filepath.Join(ca.dir, serverCAFile))
	if err != nil {
		return fmt.Errorf("server CA: %w", err)
	}
	path := filepath.Join(ca.dir, serverKeyFile)
	var next *x509.Certificate
	for _, a := range turns.later {
		c, err := x509.ParseCertificate(a.DER)
		if err != nil {
			return fmt.Errorf("server CA %.12s: %w", a.ID, err)
		}
		if next = c; !a.Used.IsZero() {
			parent, next, path = c, nil, ca.serverKeyPath(c.RawSubjectPublicKeyInfo)
		}
	}
	key, err := ca.serverKey(path, parent, &s.notes)
	if err != nil {
		return err
	}
	anchors := []*x509.Certificate{parent}
	s.add("server-ca", parent, key, ca)
	if s.waits = next != nil; s.waits {
		anchors = append(anchors, next)
		own, err := ca.serverKey(ca.serverKeyPath(next.RawSubjectPublicKeyInfo), next, &s.notes)
		if err != nil {
			s.notes.warn("the server CA %q that is prepared cannot be used: %v", next.Subject, err)
		}
		s.add("next-server-ca", next, own, ca)
	}
	s.roots = encodeCertificates(anchors)
	if len(turns.later) > 0 || turns.abandoned {
		s.anchors, s.sha256 = string(s.roots), protocol.AnchorsSHA256(string(s.roots))
	}
	if s.server, err = ca.serverUnder(parent, key, config.Names); err != nil {
		return err
	}
	ca.served.Store(s)
	return nil
}

// serverUnder returns what shows certificates by a CA: as before, where it is
// the same CA.
func (ca *CA) serverUnder(parent *x509.Certificate, key keyFile, names []string) (server, error) {
	if before := ca.served.Load(); before != nil {
		if made, ok := before.server.(*madeServer); ok && made.parent.Equal(parent) {
			return made, nil
		}
	}
	made := &madeServer{parent: parent, key: key.key, names: names, now: ca.now}
	_, err := made.current()
	return made, err
}

func (s *served) add(role string, c *x509.Certificate, key keyFile, ca *CA) {
	s.entries = append(s.entries, entry(role, c, key.path, key.encrypted))
	s.notes.ends(role, c, ca.now())
}

// serverKeyPath is where the key of a server CA is kept that was not there when
// the data directory was made.
func (ca *CA) serverKeyPath(spki []byte) string {
	return filepath.Join(ca.dir, laterServerKeyName(spki))
}

func laterServerKeyName(spki []byte) string {
	return "server-ca-" + string(certificate.KeyIDOf(spki))[:16] + ".key"
}

func (ca *CA) serverKey(path string, c *x509.Certificate, n *notes) (keyFile, error) {
	key, err := readKey(path, ca.passphrase, n)
	if err != nil {
		return keyFile{}, fmt.Errorf("server CA: %w", err)
	}
	if !issuing.SameKey(key.key.Public(), c.PublicKey) {
		return keyFile{}, fmt.Errorf("server CA: %s is not the key of %q", key.path, c.Subject)
	}
	return key, nil
}

// PrepareServerCA makes another CA for the servers, and has every get answered
// with both as trust anchors. The servers show what they did until UseServerCA.
// Killed at any moment, the world has it prepared or not.
func (w *World) PrepareServerCA(ctx context.Context) (CAEntry, error) {
	ctx = context.WithoutCancel(ctx)
	w.turning.Lock()
	defer w.turning.Unlock()
	switch now := w.ca.served.Load(); {
	case w.config.CA.ServerCertificate != "":
		return CAEntry{}, refused("the servers' certificate comes from standalone.server_certificate: what is above it is not ours to change")
	case now.waits:
		return CAEntry{}, refused("a server CA is prepared already: `certvendor ca rotate --server --finish` uses it, --abandon forgets it")
	}
	tag := make([]byte, 4)
	if _, err := rand.Read(tag); err != nil {
		return CAEntry{}, fmt.Errorf("name a CA: %w", err)
	}
	made, err := makeAuthority(leavesOnly(caTemplate(serverName+hex.EncodeToString(tag), rootYears, w.config.Now())), nil)
	if err != nil {
		return CAEntry{}, err
	}
	text, err := encodeKey(made.key, w.ca.passphrase)
	if err != nil {
		return CAEntry{}, err
	}
	w.at("key")
	if err := writeFile(w.ca.serverKeyPath(made.certificate.RawSubjectPublicKeyInfo), text, 0o600); err != nil {
		return CAEntry{}, err
	}
	id := certificate.IDOf(made.certificate.Raw)
	w.at("commit")
	if err := w.store.Anchors().Prepare(ctx, id, made.certificate.Raw); err != nil {
		return CAEntry{}, err
	}
	w.at("committed")
	if err := w.takeServersAgain(ctx); err != nil {
		return CAEntry{}, err
	}
	return w.ca.entryOf(id), nil
}

var errNotPrepared = refused("no server CA is prepared: `certvendor ca rotate --server` does it")

// UseServerCA has the servers show certificates by the CA that is prepared. At
// most so many devices may be cut off by it, because they have not said that they
// trust it; where there are more, nothing is done and a store.Missing returned.
func (w *World) UseServerCA(ctx context.Context, cutOff int) (CAEntry, error) {
	ctx = context.WithoutCancel(ctx)
	w.turning.Lock()
	defer w.turning.Unlock()
	s := w.ca.served.Load()
	if !s.waits {
		return CAEntry{}, errNotPrepared
	}
	next := s.entries[len(s.entries)-1]
	if next.Key == "" {
		return CAEntry{}, refused("the key of the server CA %.12s is not here: put it back, and start the daemon again", next.ID)
	}
	w.at("commit")
	err := w.store.Anchors().Use(ctx, s.sha256, cutOff)
	if errors.Is(err, store.ErrNothingPrepared) {
		return CAEntry{}, errNotPrepared
	}
	if err != nil {
		return CAEntry{}, err
	}
	w.at("committed")
	if err := w.takeServersAgain(ctx); err != nil {
		return CAEntry{}, err
	}
	return w.ca.entryOf(next.ID), nil
}

// AbandonServerCA forgets the CA that is prepared, and returns it as it was. The
// servers show what they did, and devices that were told of it are told, with their
// next get, of what is left. Its key stays where it is.
func (w *World) AbandonServerCA(ctx context.Context) (CAEntry, error) {
	ctx = context.WithoutCancel(ctx)
	w.turning.Lock()
	defer w.turning.Unlock()
	s := w.ca.served.Load()
	if !s.waits {
		return CAEntry{}, errNotPrepared
	}
	w.at("commit")
	if err := w.store.Anchors().Abandon(ctx); err != nil {
		return CAEntry{}, err
	}
	w.at("committed")
	return s.entries[len(s.entries)-1], w.takeServersAgain(ctx)
}

func (w *World) takeServersAgain(ctx context.Context) error {
	turns, err := w.serverTurns(ctx)
	if err != nil {
		return err
	}
	return w.ca.takeServers(w.config.CA, turns)
}

// CountMissing counts the devices that have not said that they trust the server
// CA that is prepared; none while none is.
func (w *World) CountMissing(ctx context.Context) (int, error) {
	s := w.ca.served.Load()
	if !s.waits {
		return 0, nil
	}
	return w.store.Anchors().CountMissing(ctx, s.sha256)
}

// Missing returns a page of those devices, by name, after one.
func (w *World) Missing(ctx context.Context, after registry.DeviceID, most int) ([]registry.DeviceID, error) {
	s := w.ca.served.Load()
	if !s.waits {
		return nil, nil
	}
	return w.store.Anchors().Missing(ctx, s.sha256, after, most)
}

// anchors is a vending.Anchors.
type anchors struct{ w *World }

func (a anchors) Offer(ctx context.Context, device registry.DeviceID) string {
	s := a.w.ca.served.Load()
	if s.anchors == "" {
		return ""
	}
	has, err := a.w.store.Anchors().Of(ctx, device)
	if err != nil {
		// It is told with its next get; the certificate is vended already.
		a.w.config.Log.Warn().Err(err).Str("device", string(device)).Msg("trust anchors not sent")
		return ""
	}
	if has == s.sha256 {
		return ""
	}
	return s.anchors
}

func (a anchors) Took(ctx context.Context, device registry.DeviceID, sha256 string) error {
	if s := a.w.ca.served.Load(); s.anchors == "" {
		return nil // from another world, or a time before a restore
	}
	return a.w.store.Anchors().Took(ctx, device, sha256)
}
