package device

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"
)

// clock is what the device's clock says, but not before the certificate in use
// was made: a device without a battery starts in 1970, and must be able to
// verify the broker before anybody sets its clock.
func (a *Agent) clock() time.Time {
	now, known := a.cfg.Now(), a.store.current.chain[0].NotBefore
	if now.Before(known) {
		return known
	}
	return now
}

// notYet returns the moment at which to verify a server once more, after a
// failure: where the clock is proven to be behind, the beginning of a
// certificate that has not begun yet by what the device knows. Everything
// about the server is verified at that moment, and it is not remembered.
func (a *Agent) notYet(failure error) (time.Time, bool) {
	var invalid x509.CertificateInvalidError
	if !errors.As(failure, &invalid) || invalid.Reason != x509.Expired || invalid.Cert == nil {
		return time.Time{}, false
	}
	behind := a.cfg.Now().Before(a.store.current.chain[0].NotBefore)
	return invalid.Cert.NotBefore, behind && invalid.Cert.NotBefore.After(a.clock())
}

// at returns cfg with another moment to verify at.
func at(cfg *tls.Config, moment time.Time) *tls.Config {
	cfg = cfg.Clone()
	cfg.Time = func() time.Time { return moment }
	return cfg
}
