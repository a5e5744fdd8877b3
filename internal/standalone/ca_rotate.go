package standalone

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/internal/store"
)

// Refused is why a change of the CA that a person asked for was not made, and
// what to do instead.
type Refused struct{ Why string }

func (r Refused) Error() string { return r.Why }

func refused(format string, args ...any) error { return Refused{fmt.Sprintf(format, args...)} }

// takeCA holds the store's CAs against those on disk, and makes the CA what the
// store says. A store whose certificates another CA signed is not this world's.
func (w *World) takeCA(ctx context.Context) error {
	first, err := w.ca.first()
	if err != nil {
		return err
	}
	if err := errors.Join(w.ca.removeUnfinishedKeys(), enterFirst(ctx, w.store, first, w.ca.dir)); err != nil {
		return err
	}
	all, err := w.store.Authorities().List(ctx)
	if err != nil {
		return err
	}
	return w.ca.Take(all)
}

// enterFirst enters the CA on disk into a store that knows none of its CAs yet.
func enterFirst(ctx context.Context, s *store.Store, first store.Authority, dir string) error {
	all, err := s.Authorities().List(ctx)
	if err != nil {
		return err
	}
	known, err := s.Meta(ctx, store.CACertificate)
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.ID == first.ID {
			return nil
		}
	}
	if len(all) > 0 || known != "" && known != string(first.ID) {
		return fmt.Errorf("the store belongs to the issuing CA %.12s, and %s holds %.12s: put the right CA files back", known, dir, first.ID)
	}
	return s.Authorities().Enter(ctx, first)
}

// RotateCA makes another issuing CA under the root that this world was made
// with, and lets it take over: it signs from now on, and the one before it stays
// trusted. Killed at any moment, the world has the one or the other: the key is
// on disk before the one commit that makes the change.
func (w *World) RotateCA(ctx context.Context) (CAEntry, error) {
	ctx = context.WithoutCancel(ctx) // half a change would be another that nobody asked for
	w.turning.Lock()
	defer w.turning.Unlock()
	root, err := w.ca.readRoot()
	if err != nil {
		return CAEntry{}, err
	}
	name, err := w.newName(ctx)
	if err != nil {
		return CAEntry{}, err
	}
	now := w.config.Now()
	template := leavesOnly(caTemplate(name, issuingYears, now))
	if template.NotAfter.After(root.certificate.NotAfter) {
		template.NotAfter = root.certificate.NotAfter
	}
	made, err := makeAuthority(template, root)
	if err != nil {
		return CAEntry{}, err
	}
	w.at("key")
	if err := w.ca.keepKey(made.key); err != nil {
		return CAEntry{}, err
	}
	return w.takeOver(ctx, [][]byte{made.certificate.Raw, root.certificate.Raw})
}

func (w *World) at(what string) {
	if w.step != nil {
		w.step(what)
	}
}

// newName is a name that no issuing CA of this world has, nor had.
func (w *World) newName(ctx context.Context) (string, error) {
	all, err := w.store.Authorities().List(ctx)
	if err != nil {
		return "", err
	}
	for {
		tag := make([]byte, 4)
		if _, err := rand.Read(tag); err != nil {
			return "", fmt.Errorf("name a CA: %w", err)
		}
		name := issuingName + hex.EncodeToString(tag)
		if !taken(all, "CN="+name) {
			return name, nil
		}
	}
}

func taken(all []store.Authority, subject string) bool {
	for _, a := range all {
		if a.Subject == subject {
			return true
		}
	}
	return false
}

// readRoot reads the root with its key, which may be kept elsewhere.
func (ca *CA) readRoot() (*authority, error) {
	path := filepath.Join(ca.dir, rootKeyFile)
	key, err := readKey(path, ca.passphrase, &notes{})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, refused("the root's key %s is not here: put it there for as long as this takes, or let `certvendor ca csr --new` be signed where it is, and `certvendor ca import` what comes back", path)
	case err != nil:
		return nil, fmt.Errorf("root CA: %w", err)
	case !issuing.SameKey(key.key.Public(), ca.root.PublicKey):
		return nil, refused("%s is not the key of %s: put the right one there", path, rootFile)
	case !ca.now().Before(ca.root.NotAfter):
		return nil, refused("the root has expired on %s: `certvendor ca csr --new` makes a request for another one", ca.root.NotAfter.UTC().Format(time.DateOnly))
	}
	return &authority{ca.root, key.key}, nil
}

// keepKey makes the key of an issuing CA durable, under a name of its own.
func (ca *CA) keepKey(key crypto.Signer) error {
	text, err := encodeKey(key, ca.passphrase)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode the key: %w", err)
	}
	return writeFile(ca.keyPath(spki), text, 0o600)
}

// takeOver lets the CA at the head of a chain issue from now on. Its key is here.
func (w *World) takeOver(ctx context.Context, chain [][]byte) (CAEntry, error) {
	a, err := store.NewAuthority(chain)
	if err != nil {
		return CAEntry{}, err
	}
	w.at("commit")
	switch err := w.store.Authorities().TakeOver(ctx, a); {
	case errors.Is(err, store.ErrAuthorityRetired):
		return CAEntry{}, refused("CA %.12s was retired, and stays so: have another one made", a.ID)
	case err != nil:
		return CAEntry{}, err
	}
	w.at("committed")
	if err := w.takeAgain(ctx); err != nil {
		return CAEntry{}, err
	}
	return w.ca.entryOf(a.ID), nil
}

// takeAgain makes the CA what the store says by now.
func (w *World) takeAgain(ctx context.Context) error {
	all, err := w.store.Authorities().List(ctx)
	if err != nil {
		return err
	}
	return w.ca.Take(all)
}

func (ca *CA) entryOf(id certificate.ID) CAEntry {
	for _, e := range ca.Entries() {
		if e.ID == id {
			return e
		}
	}
	return CAEntry{}
}

// RetireCA takes a CA out of those that are trusted, for good: its certificates
// connect no more, and connections with them are closed. At most so many
// certificates and packages that are in use may stop working by it; where there
// are more, nothing is done and a store.InUse returned.
func (w *World) RetireCA(ctx context.Context, id certificate.ID, lose int) error {
	ctx = context.WithoutCancel(ctx)
	w.turning.Lock()
	defer w.turning.Unlock()
	if err := w.ca.mayRetire(id); err != nil {
		return err
	}
	r := store.Retiring{ID: id, Lose: lose, Expired: w.expired()}
	w.at("retire")
	if err := w.store.Authorities().Retire(ctx, r); err != nil {
		return err
	}
	w.at("retired")
	if err := w.takeAgain(ctx); err != nil {
		return err
	}
	w.broker.CloseUntrusted()
	w.at("distrust")
	return w.store.Authorities().Distrust(ctx)
}

// UsesCA counts what would stop working without a CA.
func (w *World) UsesCA(ctx context.Context, id certificate.ID) (store.Uses, error) {
	return w.store.Authorities().Uses(ctx, id, w.expired())
}

// ByClock has nothing count as expired, where a CA is retired, while steady says
// why the clock is not to be trusted. It is called before Start.
func (w *World) ByClock(steady func() error) { w.steady = steady }

// expired returns before which moment a certificate has ended that works no more.
func (w *World) expired() time.Time {
	if w.steady != nil && w.steady() != nil {
		return time.Time{}
	}
	return w.config.Now().Add(-w.config.Broker.Expired)
}

// mayRetire refuses what would have no effect: a CA that the configuration
// trusts all the same.
func (ca *CA) mayRetire(id certificate.ID) error {
	t := ca.trust.Load()
	if t.issuing.ID == id {
		return refused("CA %.12s is the one that issues: `certvendor ca rotate` lets another one take over first", id)
	}
	for _, i := range t.trusted {
		for _, c := range ca.foreign {
			if i.ID == id && (c.Equal(i.certificate) || i.certificate.CheckSignatureFrom(c) == nil) {
				return refused("CA %.12s would still be trusted by %q in standalone.client_ca: take that file out, and start the daemon again", id, c.Subject)
			}
		}
	}
	return nil
}

// removeUnfinishedKeys deletes what an interrupted writeFile left of a key.
func (ca *CA) removeUnfinishedKeys() error {
	if err := removeParts(ca.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("discard what an interrupted change of the CA left: %w", err)
	}
	return nil
}
