package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"sync"
)

// afterHeader is the header of a part that says where the next part begins. It
// comes before the part, so that the next one is asked for while this one is
// read.
const afterHeader = "Certvendor-After"

// part is a piece of a list that is looked through: what was looked at ends
// with after, which is empty when there was nothing left to look at. What was
// found in it may be nothing, although the list goes on.
type part[T any] struct {
	after string
	found []T
}

// send writes a part: JSON, an entry a line, as the CLI prints it.
func (p part[T]) send(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set(afterHeader, p.after)
	w.WriteHeader(http.StatusOK)
	if http.NewResponseController(w).Flush() != nil {
		return // whoever asked has gone
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	for i := range p.found {
		if encoder.Encode(&p.found[i]) != nil {
			panic(http.ErrAbortHandler) // half a part must not look whole
		}
	}
	_, _ = w.Write(text.Bytes()) // whoever asked has gone
}

// List is a list that comes from the daemon a part at a time. The daemon looks
// through the next part while this one is used.
type List[T any] struct {
	ctx    context.Context
	client *Client
	asked  request
}

// Texts goes through the entries as the daemon wrote them: each is JSON, and
// good until the next.
func (l List[T]) Texts() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		ctx, cancel := context.WithCancel(l.ctx)
		got := make(chan answered)
		var asking sync.WaitGroup
		asking.Go(func() { l.client.askParts(ctx, l.asked, got) })
		defer asking.Wait()
		defer cancel()
		for one := range got {
			text, err := one.read()
			if err != nil {
				yield(nil, err)
				return
			}
			for line := range bytes.Lines(text) {
				if !yield(bytes.TrimSuffix(line, []byte("\n")), nil) {
					return
				}
			}
		}
		if l.ctx.Err() != nil { // what came last may not have been handed on
			yield(nil, l.ctx.Err())
		}
	}
}

// All goes through the entries.
func (l List[T]) All() iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for text, err := range l.Texts() {
			var entry T
			if err == nil {
				err = json.Unmarshal(text, &entry)
			}
			if !yield(entry, err) || err != nil {
				return
			}
		}
	}
}

// answered is a part whose body was not read yet, or why there is none.
type answered struct {
	body io.ReadCloser
	err  error
}

func (a answered) read() ([]byte, error) {
	if a.err != nil {
		return nil, a.err
	}
	defer a.body.Close()
	text, err := io.ReadAll(io.LimitReader(a.body, maxReply))
	if err != nil {
		err = fmt.Errorf("read the daemon's answer: %w", err)
	}
	return text, err
}

// askParts hands on one part after the other, and ends after the last, after
// an error, or when nobody takes them any more.
func (c *Client) askParts(ctx context.Context, r request, got chan<- answered) {
	defer close(got)
	for {
		response, err := c.send(ctx, r)
		one := answered{err: err}
		if err == nil {
			one.body = response.Body
		}
		select {
		case got <- one:
		case <-ctx.Done():
			if err == nil {
				_ = response.Body.Close()
			}
			return
		}
		if err != nil || response.Header.Get(afterHeader) == "" {
			return
		}
		r.query.Set("after", response.Header.Get(afterHeader))
	}
}
