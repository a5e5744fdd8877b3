package main

import (
	"fmt"
	"time"

	"github.com/certvendor/certvendor/device"
)

// standing is what the directory holds. It is read without the lock, beside a
// certagent at work.
type standing struct {
	Device string `json:"device"`
	device.Inspection
	Expired bool `json:"expired"`
	// Renews is when run rotates without a job; zero for never.
	Renews time.Time `json:"renews,omitzero"`
}

func (p *program) status(s settings) error {
	now, err := s.inspect()
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(now)
	}
	expiry := "expires"
	if now.Expired {
		expiry = "EXPIRED"
	}
	fmt.Fprintf(p.out, "device       %s\ncertificate  %s\nsubject      %s\n%s      %s\n",
		now.Device, now.CertificateID, now.Subject, expiry, now.NotAfter.Format(time.RFC3339))
	if !now.Renews.IsZero() {
		fmt.Fprintf(p.out, "renews       %s\n", now.Renews.Format(time.RFC3339))
	}
	fmt.Fprintf(p.out, "file         %s\nkey          %s\n", now.Certificate, now.Key)
	if u := now.Unfinished; u != nil {
		fmt.Fprintf(p.out, "unfinished   %s %s %s\n", u.Stage, u.CertificateID, u.Job)
	}
	return nil
}

func (s settings) inspect() (standing, error) {
	found, err := device.Inspect(s.device.Directory)
	if err != nil {
		return standing{}, err
	}
	if found.Key == "" {
		found.Key = s.keyFile
	}
	now := standing{Device: s.device.Device, Inspection: found, Expired: !time.Now().Before(found.NotAfter)}
	now.Renews, _ = s.device.RenewalTime(found) // zero where it never does
	return now, nil
}
