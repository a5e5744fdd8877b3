package protocol_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/protocol"
)

// The JSON blocks of docs/protocol.md are the golden files: each stands behind
// a comment that names it, and is held against the value of that name in
// golden_values_test.go.

const page = "../docs/protocol.md"

// golden is what one block must mean, and how it is read and written.
type golden struct {
	want   any
	decode func(block []byte) (any, error)
	encode func() []byte // nil for what only devices write
}

// message is a block that certvendor or a job client writes.
func message[T any](want T) golden {
	return golden{
		want: want,
		decode: func(block []byte) (any, error) {
			var v T
			err := protocol.Decode(block, &v)
			return v, err
		},
		encode: func() []byte { return protocol.Encode(want) },
	}
}

func getRequest(want protocol.GetRequest) golden {
	return golden{want: want, decode: func(block []byte) (any, error) {
		return protocol.DecodeGet(block, protocol.Address{Device: device, Action: protocol.Get})
	}}
}

func ackRequest(want protocol.AckRequest) golden {
	return golden{want: want, decode: func(block []byte) (any, error) {
		return protocol.DecodeAck(block, protocol.Address{Device: device, Action: protocol.Ack})
	}}
}

func TestGolden(t *testing.T) {
	blocks := pageBlocks(t)
	wanted := goldens()
	for name := range blocks {
		if _, ok := wanted[name]; !ok {
			t.Errorf("%s: block %s has no value in golden_values_test.go", page, name)
		}
	}
	for name, g := range wanted {
		t.Run(name, func(t *testing.T) {
			block, ok := blocks[name]
			if !ok {
				t.Fatalf("%s has no block of that name", page)
			}
			g.check(t, block)
		})
	}
}

// check reads the block, writes the value, and expects both to be the other.
func (g golden) check(t *testing.T, block []byte) {
	got, err := g.decode(block)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if diff := cmp.Diff(g.want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	if g.encode == nil {
		g.checkMembers(t, block)
		return
	}
	if diff := cmp.Diff(string(block), string(g.encode())); diff != "" {
		t.Errorf("encoded (-page +code):\n%s", diff)
	}
}

// checkMembers takes one member after the other out of a request: each must
// change what is read, or the page shows a member that nobody reads.
func (g golden) checkMembers(t *testing.T, block []byte) {
	var all map[string]jsontext.Value
	if err := json.Unmarshal(block, &all); err != nil {
		t.Fatal(err)
	}
	for name := range all {
		less := map[string]jsontext.Value{}
		for other, value := range all {
			if other != name {
				less[other] = value
			}
		}
		body, err := json.Marshal(less)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := g.decode(body); err == nil && cmp.Equal(g.want, got) {
			t.Errorf("member %s means nothing", name)
		}
	}
}

var marker = regexp.MustCompile(`^<!-- golden: ([a-z-]+) -->$`)

// parseBlocks returns the JSON blocks of a page by name, compacted. A block
// without a name, a name without a block and a name given twice are errors.
func parseBlocks(text string) (map[string][]byte, error) {
	blocks := map[string][]byte{}
	lines := strings.Split(text, "\n")
	name := ""
	for i := 0; i < len(lines); i++ {
		found := marker.FindStringSubmatch(lines[i])
		switch {
		case name != "" && lines[i] != "```json":
			return nil, fmt.Errorf("line %d: no block follows the name %s", i+1, name)
		case found != nil:
			name = found[1]
			continue
		case lines[i] != "```json":
			continue
		case name == "":
			return nil, fmt.Errorf("line %d: a json block without a name", i+1)
		case blocks[name] != nil:
			return nil, fmt.Errorf("line %d: a second block %s", i+1, name)
		}
		n := slices.Index(lines[i:], "```")
		if n < 0 {
			return nil, fmt.Errorf("line %d: the block does not end", i+1)
		}
		block := jsontext.Value(strings.Join(lines[i+1:i+n], "\n"))
		if err := block.Compact(); err != nil {
			return nil, fmt.Errorf("block %s: %w", name, err)
		}
		blocks[name] = bytes.Clone(block)
		name, i = "", i+n
	}
	if len(blocks) == 0 {
		return nil, errors.New("no block at all")
	}
	return blocks, nil
}

// TestParseBlocksCanFail shows that the page cannot lose a block unnoticed.
func TestParseBlocksCanFail(t *testing.T) {
	const named = "<!-- golden: a -->\n```json\n{ \"b\": 1 }\n```\n"
	blocks, err := parseBlocks(named)
	if err != nil || string(blocks["a"]) != `{"b":1}` {
		t.Fatalf("a named block: %q, %v", blocks, err)
	}
	for _, text := range []string{
		"", "```json\n{}\n```\n", named + named, "<!-- golden: a -->\n\n```json\n{}\n```\n",
		"<!-- golden: a -->\n```json\n{}\n", "<!-- golden: a -->\n```json\n{\n```\n",
		"<!-- golden: a -->\n<!-- golden: b -->\n```json\n{}\n```\n",
	} {
		if blocks, err := parseBlocks(text); err == nil {
			t.Errorf("%q: taken as %q", text, blocks)
		}
	}
}

func pageText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func pageBlocks(t *testing.T) map[string][]byte {
	t.Helper()
	blocks, err := parseBlocks(pageText(t))
	if err != nil {
		t.Fatalf("%s: %v", page, err)
	}
	return blocks
}
