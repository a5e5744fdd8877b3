package control

import (
	"context"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
)

// Campaign is a campaign and how it stands.
type Campaign struct {
	Name      string                    `json:"name"`
	State     campaign.State            `json:"state"`
	Why       string                    `json:"why,omitempty"`
	Holding   string                    `json:"holding,omitempty"`  // why nobody is let in now
	WaitsFor  string                    `json:"waitsFor,omitempty"` // of a canary: what keeps the next wave from beginning
	Devices   int                       `json:"devices"`
	Wave      int                       `json:"wave"`
	Waves     int                       `json:"waves"`
	Standings map[campaign.Standing]int `json:"standings"`
	Forecast  time.Time                 `json:"forecast,omitzero"`
	By        string                    `json:"by"`
	Applied   time.Time                 `json:"applied"`
	Ended     time.Time                 `json:"ended,omitzero"`
	History   []campaign.Change         `json:"history,omitempty"`
	Unchanged bool                      `json:"unchanged,omitempty"` // it was there already
	Spec      campaign.Spec             `json:"spec"`
}

// CampaignMember is a device in a campaign, with the rotation it made.
type CampaignMember struct {
	Device   string            `json:"device"`
	Place    int               `json:"place"`
	Wave     int               `json:"wave"`
	Standing campaign.Standing `json:"standing"`
	Why      string            `json:"why,omitempty"`
	Added    time.Time         `json:"added,omitzero"`
	Since    time.Time         `json:"since,omitzero"`
	OpenedBy string            `json:"openedBy,omitempty"` // who applied the campaign, or opened the gate before its wave
	Rotation *Rotation         `json:"rotation,omitempty"`
	Issuer   string            `json:"issuer,omitempty"` // of the certificate that the rotation vended
	Later    bool              `json:"later,omitempty"`  // it has begun another rotation since
}

func (s *Server) viewOf(ctx context.Context, c campaign.Campaign) (Campaign, error) {
	tally, err := s.Campaigns.Running.Tally(ctx, c.Name)
	view := Campaign{
		Name: c.Name, State: c.State, Why: c.Why, Devices: c.Devices, Wave: c.Wave, Waves: len(tally), By: c.By,
		Applied: c.Applied, Ended: c.Ended, History: c.History, Standings: map[campaign.Standing]int{}, Spec: c.Spec,
	}
	for _, wave := range tally {
		for standing, n := range wave {
			view.Standings[standing] += n
		}
	}
	if c.IsAuto() { // it grows
		view.Devices, view.Waves = 0, 1
		for _, n := range view.Standings {
			view.Devices += n
		}
	}
	if c.State == campaign.Running {
		view.Holding, view.WaitsFor = s.Campaigns.Runner.Holding(c.Name), c.WaitsFor(tally)
		if !c.IsAuto() { // which never ends
			view.Forecast = c.Forecast(tally, s.Campaigns.Pace, s.Now())
		}
	}
	return view, err
}

// memberView is a member with the rotation that it made, for a report.
func (s *Server) memberView(ctx context.Context, c campaign.Campaign, m campaign.Member) (CampaignMember, error) {
	view := CampaignMember{
		Device: string(m.Device), Place: m.Place, Wave: m.Wave, Standing: m.Standing, Why: m.Why, Added: m.Added, Since: m.Since,
	}
	if m.Added.IsZero() {
		return view, nil
	}
	view.OpenedBy = c.OpenedBy(m.Wave)
	history, err := s.Journal.Find(ctx, m.Device)
	if err != nil {
		return view, err
	}
	for _, r := range history.Rotations { // the newest first: the first of the campaign is the last to be looked at
		switch {
		case r.Number <= m.Before:
		case !m.Next.IsZero() && !r.Opened.Before(m.Next): // it is the other campaign's
			view.Later = true
		case view.Rotation == nil || !r.ProvenAt.IsZero():
			one := rotationView(r)
			view.Rotation = &one
		}
	}
	if view.Rotation == nil {
		return view, nil
	}
	view.Later = history.Rotations[0].Number > view.Rotation.Number
	view.Issuer, err = s.issuerOf(ctx, view.Rotation.Certificate)
	return view, err
}

// issuerOf returns who issued a certificate; empty if there is none yet.
func (s *Server) issuerOf(ctx context.Context, id certificate.ID) (string, error) {
	if id == "" {
		return "", nil
	}
	found, err := s.Certificates.List(ctx, certificate.Query{After: id[:len(id)-1], Limit: 1})
	if err != nil || len(found) == 0 || found[0].ID != id {
		return "", err
	}
	return found[0].Issuer, nil
}
