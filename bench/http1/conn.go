// Package http1 is as much of HTTP/1.1 as is needed to ask and be answered: one
// connection, used by one goroutine at a time, that stays open. What asks the
// peers costs the machine as little as package mqtt, which asks certvendor: Go's
// own client has two goroutines for each connection.
package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// patience is how long the server may take for anything.
const patience = 30 * time.Second

// Conn is an open connection.
type Conn struct {
	conn net.Conn
	in   *bufio.Reader
	host string
	out  []byte
}

// Dial connects, over TLS if there is a configuration for it.
func Dial(ctx context.Context, address string, config *tls.Config) (*Conn, error) {
	var conn net.Conn
	var err error
	if config == nil {
		conn, err = new(net.Dialer).DialContext(ctx, "tcp", address)
	} else {
		conn, err = (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return &Conn{conn: conn, in: bufio.NewReaderSize(conn, 4096), host: address}, nil
}

// Ask sends a request, whose body is JSON, and returns the body of its answer.
// An answer other than 2xx is an error.
func (c *Conn) Ask(method, path string, body []byte) ([]byte, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	c.out = append(c.out[:0], method...)
	c.out = append(c.out, ' ')
	c.out = append(c.out, path...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: "...)
	c.out = append(c.out, c.host...)
	c.out = append(c.out, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	c.out = strconv.AppendInt(c.out, int64(len(body)), 10)
	c.out = append(c.out, "\r\n\r\n"...)
	if _, err := c.conn.Write(append(c.out, body...)); err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return c.answer(method, path)
}

// answer reads an answer to its end, so that the next one begins where it ends.
func (c *Conn) answer(method, path string) ([]byte, error) {
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %.200s", method, path, response.Status, reply)
	}
	return reply, err
}

// Close hangs up.
func (c *Conn) Close() error { return c.conn.Close() }
