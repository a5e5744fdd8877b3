package system

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/certvendor/certvendor/bench/load"
)

// post is one HTTP request, and then its answer.
type post struct {
	body  []byte
	key   crypto.PublicKey // that the certificate is to be for
	reply []byte
}

// posts is a loop of HTTP requests, in which each worker has a connection of
// its own that stays open.
type posts struct {
	url     string
	clients []*http.Client
	next    func(worker int) (post, bool) // what is to be sent; false: nothing is left
	sent    [][]post                      // of each worker
}

func newPosts(url string, workers int, config func(worker int) *tls.Config) *posts {
	p := &posts{url: url, sent: make([][]post, workers)}
	for w := range workers {
		p.clients = append(p.clients, &http.Client{
			Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: config(w), MaxIdleConnsPerHost: 1},
		})
	}
	return p
}

// run asks until the time, or what is to be sent, is over.
func (p *posts) run(lasts time.Duration) (load.Result, error) {
	return load.Loop(len(p.clients), lasts, func(worker int) error {
		asked, ok := p.next(worker)
		if !ok {
			return load.ErrNoMore
		}
		var err error
		asked.reply, err = p.post(worker, asked.body)
		p.sent[worker] = append(p.sent[worker], asked)
		return err
	})
}

func (p *posts) post(worker int, body []byte) ([]byte, error) {
	return read(p.clients[worker].Post(p.url, "application/json", bytes.NewReader(body)))
}

// connect opens each worker's connection, by a request that costs nothing.
func (p *posts) connect(url string) error {
	return each(len(p.clients), func(worker int) error {
		_, err := read(p.clients[worker].Get(url))
		return err
	})
}

// read reads an answer to its end, so that the connection is used again.
func read(response *http.Response, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s: %.200s", response.Request.URL, response.Status, reply)
	}
	return reply, err
}

// close hangs up.
func (p *posts) close() {
	for _, client := range p.clients {
		client.CloseIdleConnections()
	}
}

// check hangs up, and verifies the certificate in every reply.
func (p *posts) check(ca *CA, certificate func(reply []byte) (string, error)) error {
	p.close()
	return each(len(p.sent), func(w int) error {
		for _, s := range p.sent[w] {
			text, err := certificate(s.reply)
			if err != nil {
				return err
			}
			if err := ca.verify([]byte(text), s.key); err != nil {
				return err
			}
		}
		return nil
	})
}

// inTurn hands out what was prepared.
func inTurn(prepared []post) func(int) (post, bool) {
	line := make(chan post, len(prepared))
	for _, one := range prepared {
		line <- one
	}
	return func(int) (post, bool) {
		select {
		case one := <-line:
			return one, true
		default:
			return post{}, false
		}
	}
}
