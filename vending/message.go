package vending

// Message is a request as a bus hands it over.
type Message struct {
	Topic   string
	Payload []byte
	Caller  Caller // Device is set only where the bus knows whose connection it is
}
