package main

import (
	"os"
	"strings"
	"testing"
)

// TestCampaignThatIsTooLong: a campaign is read whole or not at all, from wherever it
// comes. Half a list of exceptions lets the other half in.
func TestCampaignThatIsTooLong(t *testing.T) {
	text := "name: spring\nchoose:\n  all: true\n  except:\n" + strings.Repeat("  - gateway-0001\n", maxCampaign/17)
	path := t.TempDir() + "/spring.yaml"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	t.Cleanup(func() { os.Stdin = stdin })
	for _, name := range []string{path, "-"} {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		os.Stdin = file
		f := campaignFlags{file: name}
		s, err := f.spec(nil)
		if err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %d exceptions, %v", name, len(s.Choose.Except), err)
		}
		_ = file.Close()
	}
}
