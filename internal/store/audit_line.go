package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// record is an event that is part of the chain, on its way into the store and
// into the files. It is encoded once for both.
type record struct {
	Event
	end    head   // of the chain, with it
	before head   // and without
	detail string // as the store keeps it
	line   []byte // as the files do, with a line feed
}

// follow returns the event as the chain's next.
func (h head) follow(e Event) record {
	r := record{Event: e, before: h, detail: object(e.Detail)}
	r.Seq, r.Hash = h.seq+1, ""
	const aside = 300 // all that is beside the detail, nearly always
	text := make([]byte, 0, sha256.Size+len(r.detail)+aside)
	text = r.appendLine(append(text, h.hash[:]...), r.detail)
	r.end = head{r.Seq, sha256.Sum256(text)}
	r.Hash = r.end.text()
	r.line = append(text[sha256.Size:len(text)-1], `,"hash":"`+r.Hash+"\"}\n"...)
	return r
}

// recordOf returns an event that follows a head as it is.
func recordOf(e Event, before head) (r record, err error) {
	r = record{Event: e, before: before, detail: object(e.Detail)}
	r.line = append(r.appendLine(nil, r.detail), '\n')
	r.end, err = headOf(e)
	return r, err
}

// line returns the event as JSON, without a line feed.
func (e Event) line() []byte { return e.appendLine(nil, object(e.Detail)) }

// appendLine appends what encoding/json makes of the event, whose detail is
// encoded already, in a fifth of its time.
func (e Event) appendLine(to []byte, detail string) []byte {
	to = strconv.AppendInt(append(to, `{"seq":`...), e.Seq, 10)
	to, err := e.At.AppendText(append(to, `,"at":"`...))
	if err != nil {
		panic("store: the time of an event: " + err.Error())
	}
	to = appendText(append(to, `","instance":`...), e.Instance)
	to = appendText(append(to, `,"kind":`...), e.Kind)
	if e.Device != "" {
		to = appendText(append(to, `,"device":`...), string(e.Device))
	}
	if e.Certificate != "" {
		to = appendText(append(to, `,"certificate":`...), string(e.Certificate))
	}
	if len(e.Detail) > 0 {
		to = append(append(to, `,"detail":`...), detail...)
	}
	if e.Hash != "" {
		to = appendText(append(to, `,"hash":`...), e.Hash)
	}
	return append(to, '}')
}

// appendText appends a JSON string as encoding/json writes it.
func appendText(to []byte, text string) []byte {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			encoded, err := json.Marshal(text)
			if err != nil {
				panic("store: a string: " + err.Error())
			}
			return append(to, encoded...)
		}
	}
	return append(append(append(to, '"'), text...), '"')
}

func (h head) text() string { return hex.EncodeToString(h.hash[:]) }
