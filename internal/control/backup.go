package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// backup streams a backup. What fails before its first octet is answered like
// any other request; what fails later breaks the connection off, so that
// nobody takes a part for the whole.
func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	keys := r.URL.Query().Get("keys") != "false"
	out := &stream{to: w}
	err := s.note(r.Context(), Event{Kind: "backup", Detail: map[string]string{"keys": strconv.FormatBool(keys)}})
	if err == nil {
		err = s.Backup(r.Context(), keys, out)
	}
	switch {
	case err == nil:
	case out.begun:
		panic(http.ErrAbortHandler)
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(statusOf(err))
		_ = json.NewEncoder(w).Encode(failure{err.Error()}) // whoever asked has gone
	}
}

// stream is a reply that remembers whether it has begun.
type stream struct {
	to    http.ResponseWriter
	begun bool
}

func (s *stream) Write(p []byte) (int, error) {
	if !s.begun {
		s.to.Header().Set("Content-Type", "application/x-tar")
		s.begun = true
	}
	return s.to.Write(p)
}

// Backup writes a backup of the daemon's whole world to w; without keys,
// nothing private is in it. The store is copied before the first octet comes.
// What was written before an error is worth nothing.
func (c *Client) Backup(ctx context.Context, keys bool, w io.Writer) error {
	target := c.base
	target.Path, target.RawQuery = "/v1/backup", url.Values{"keys": {strconv.FormatBool(keys)}}.Encode()
	sent, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), http.NoBody)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	response, err := c.http.Do(sent)
	if err != nil {
		return c.unreachable(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var refused failure
		if err := json.NewDecoder(io.LimitReader(response.Body, maxReply)).Decode(&refused); err != nil || refused.Error == "" {
			refused.Error = "the daemon answered " + response.Status
		}
		return &Error{response.StatusCode, refused.Error}
	}
	_, err = io.Copy(w, response.Body)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the daemon broke the backup off: its log, and the free space on its disk, may say why")
	}
	return err
}
