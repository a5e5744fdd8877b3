// Package protocol is what devices and certvendor say to each other over
// MQTT, and nothing else: topics, messages, reasons, job messages and the text
// of a proof. It does no I/O and knows nothing of how an answer is found.
//
// docs/protocol.md is its normative description; the JSON blocks there are the
// golden files of this package's tests. Read topics.go, then messages.go.
package protocol

// Action is what a device asks for; it is the last level of a request's topic.
type Action string

// The two things a device can say.
const (
	Get Action = "get" // vend me a certificate
	Ack Action = "ack" // I work on the new certificate now
)

// Limits of a request; the first two are those of AWS IoT Core
// (docs.aws.amazon.com/general/latest/gr/iot-core.html, "Message broker").
const (
	MaxPayload     = 64 << 10  // octets of a payload; more is MALFORMED_REQUEST
	MaxPacket      = 128 << 10 // octets of an MQTT packet; more closes the connection
	MaxClientToken = 64        // characters of a clientToken
	MaxCSR         = 16 << 10  // octets of the member csr
)
