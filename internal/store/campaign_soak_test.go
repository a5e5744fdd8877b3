package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/store"
)

// BenchmarkSoakingRound is what a round of the runner takes while 100,000
// devices of a campaign soak, and nothing becomes of them.
func BenchmarkSoakingRound(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{Path: b.TempDir() + "/store.db", Instance: "one"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const devices = 100_000
	now := time.Now()
	spec, err := json.Marshal(campaign.Spec{Name: "spring", Choose: campaign.Choice{All: true}, Soak: 24 * time.Hour}.WithDefaults())
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Write(b.Context(), append(fleet(devices),
		fmt.Sprintf(`UPDATE rotations SET proven_at = %d`, now.UnixNano()),
		fmt.Sprintf(`INSERT INTO campaigns (name, spec, state, why, devices, wave, by_whom, applied, ended, version)
			VALUES ('spring', '%s', 'running', '', %d, 1, '', 1, 0, 1)`, spec, devices),
		fmt.Sprintf(`INSERT INTO campaign_members (campaign, place, device, wave, standing, why, zone, added, since, before)
			SELECT 'spring', row_number() OVER (ORDER BY id) - 1, id, 1, 'proven', '', '', %[1]d, %[1]d, 0 FROM devices`, now.UnixNano()),
	)...); err != nil {
		b.Fatal(err)
	}
	runner := campaign.NewRunner(campaign.Ports{
		Store: s.Campaigns(), Roll: s.Campaigns(), Watch: s.Campaigns(), Group: s.Group(), Hold: func(context.Context) string { return "" },
		LetIn: func() {}, Now: func() time.Time { return now },
	})
	if err := runner.Round(b.Context()); err != nil { // the first looks at all
		b.Fatal(err)
	}
	for b.Loop() {
		if err := runner.Round(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	tally, err := s.Campaigns().Tally(b.Context(), "spring")
	if err != nil || tally[1][campaign.Proven] != devices {
		b.Errorf("%v, %v", tally, err)
	}
}

// BenchmarkOverdue is what it takes to count who of 20,000 devices that were let in is
// offline, while as many others wait for their job.
func BenchmarkOverdue(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{Path: b.TempDir() + "/store.db", Instance: "one"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const devices = 40_000
	now := time.Now()
	if err := s.Write(b.Context(), append(fleet(devices),
		`INSERT INTO campaigns (name, spec, state, why, devices, wave, by_whom, applied, ended, version)
			VALUES ('spring', '{}', 'running', '', 0, 1, '', 1, 0, 1)`,
		fmt.Sprintf(`INSERT INTO campaign_members (campaign, place, device, wave, standing, why, zone, added, since, before)
			SELECT 'spring', row_number() OVER (ORDER BY id) - 1, id, 1, 'added', '', '', %[1]d, %[1]d, 0 FROM devices ORDER BY id LIMIT %[2]d`,
			now.Add(-2*time.Hour).UnixNano(), devices/2),
		fmt.Sprintf(`INSERT INTO members SELECT id, %[1]d, %[1]d FROM devices ORDER BY id DESC LIMIT %[2]d`, now.UnixNano(), devices/2),
	)...); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		overdue, err := s.Campaigns().Overdue(b.Context(), "spring", now.Add(-time.Hour))
		if err != nil || overdue[1] != devices/2 {
			b.Fatalf("%v, %v", overdue, err)
		}
	}
}
