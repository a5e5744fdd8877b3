package system

import (
	"context"
	"crypto"
	"crypto/tls"
	"net/http"
	"time"

	"github.com/certvendor/certvendor/bench/http1"
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
	address, path string
	config        func(worker int) *tls.Config  // nil: no TLS
	conns         []*http1.Conn                 // of each worker
	next          func(worker int) (post, bool) // what is to be sent; false: nothing is left
	sent          [][]post                      // of each worker
}

func newPosts(address, path string, workers int, config func(worker int) *tls.Config) *posts {
	return &posts{address: address, path: path, config: config, conns: make([]*http1.Conn, workers), sent: make([][]post, workers)}
}

// run asks until the time, or what is to be sent, is over.
func (p *posts) run(lasts time.Duration) (load.Result, error) {
	return load.Loop(len(p.conns), lasts, func(worker int) error {
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
	return p.conns[worker].Ask(http.MethodPost, p.path, body)
}

// connect opens each worker's connection, with a request that costs nothing.
func (p *posts) connect(path string) error {
	return each(len(p.conns), func(worker int) error {
		conn, err := http1.Dial(context.Background(), p.address, p.config(worker))
		if err != nil {
			return err
		}
		p.conns[worker] = conn
		_, err = conn.Ask(http.MethodGet, path, nil)
		return err
	})
}

// close hangs up.
func (p *posts) close() { closeAll(p.conns) }

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
