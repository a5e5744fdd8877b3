package deps

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// cases is how many there are in the list that was made for the original.
const cases = 100

var (
	namedCases = regexp.MustCompile(`\bcase_([0-9]{2,}(?:_[0-9]{2,})*)|\bfunc TestCases?([0-9]{2,}(?:And[0-9]{2,})*)`)
	caseNumber = regexp.MustCompile(`[0-9]{2,}`)
)

// Every case of the list is a test of its number, or decided otherwise in
// docs/protocol.md, which says why.
func TestEveryCaseIsShownOrDecidedOtherwise(t *testing.T) {
	const root = "../.."
	shown := map[int]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root:
			return filepath.SkipDir
		case !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "backendtest/") || !strings.HasSuffix(path, ".go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, found := range namedCases.FindAllString(string(text), -1) {
			for _, number := range caseNumber.FindAllString(found, -1) {
				n, _ := strconv.Atoi(number)
				shown[n] = path
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	otherwise := decidedOtherwise(t, filepath.Join(root, "docs", "protocol.md"))
	for n := 1; n <= cases; n++ {
		if shown[n] == "" && !slices.Contains(otherwise, n) {
			t.Errorf("case %d is no test's, and is not decided otherwise in docs/protocol.md", n)
		}
	}
	if len(otherwise) == 0 {
		t.Error("docs/protocol.md decides nothing otherwise: its list was not found")
	}
}

// decidedOtherwise returns the cases in the brackets of the document's list.
func decidedOtherwise(t *testing.T, path string) (all []int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(text), "\n## Decided otherwise\n")
	for _, bracket := range regexp.MustCompile(`\(cases? [0-9, and]+\)`).FindAllString(list, -1) {
		for _, number := range regexp.MustCompile(`[0-9]+`).FindAllString(bracket, -1) {
			n, _ := strconv.Atoi(number)
			all = append(all, n)
		}
	}
	return all
}
