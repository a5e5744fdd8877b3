package aws

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const (
	// webSocketLife is a little less than what AWS IoT lets one live.
	webSocketLife = 23 * time.Hour
	// handshakeTime bounds what nothing can interrupt: the WebSocket's client
	// takes no context.
	handshakeTime = 10 * time.Second
)

// SignedWebSocket is the Way of an IAM identity: MQTT over a WebSocket whose
// URL is signed anew for every attempt, with the credentials of that moment.
type SignedWebSocket struct {
	Endpoint    string // host of AWS IoT's data endpoint, with a port if it is not 443
	Region      string
	Credentials awssdk.CredentialsProvider
	Roots       *x509.CertPool // nil: the system's
	Now         func() time.Time
}

var _ Way = (*SignedWebSocket)(nil)

// Open signs and connects. Its errors hold nothing that is secret.
func (w *SignedWebSocket) Open(ctx context.Context) (net.Conn, error) {
	credentials, err := w.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", w.Endpoint, err)
	}
	signed, err := signMQTT(ctx, credentials, w.Endpoint, w.Region, w.Now(), 0)
	if err != nil {
		return nil, err
	}
	patience := handshakeTime
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline))
	}
	conn, err := mqtt.NewWebsocket(signed, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: w.Roots}, patience, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("connect to wss://%s/mqtt: %w", w.Endpoint, withoutURL(err))
	}
	return conn, nil
}

// withoutURL keeps the signed URL, which some errors of the HTTP client
// repeat, out of logs.
func withoutURL(err error) error {
	var network *net.OpError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &network):
		return network
	case errors.As(err, &verify):
		return verify
	}
	return errors.New("the WebSocket was refused: are the credentials allowed iot:Connect, and is the clock right?")
}

// Stale reports whether AWS IoT is about to end the connection.
func (w *SignedWebSocket) Stale(opened time.Time) bool { return time.Since(opened) > webSocketLife }
