package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Sign returns the signature header of a body: "t=SECONDS,v1=HEX", the time as
// a unix time, and HMAC-SHA256 under the secret over SECONDS, a dot and the
// body's octets. Each attempt is signed anew.
func Sign(secret string, at time.Time, body []byte) string {
	seconds := strconv.FormatInt(at.Unix(), 10)
	return "t=" + seconds + ",v1=" + hex.EncodeToString(mac(secret, seconds, body))
}

func mac(secret, seconds string, body []byte) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(seconds + "."))
	h.Write(body)
	return h.Sum(nil)
}

// ErrSignature is the one answer to a signature that is forged, of another
// secret, or older or newer than the window.
var ErrSignature = errors.New("the signature is not good")

// Verify is what a receiver does: it checks a signature header of a body, and
// that it was made within window of now. What comes again within the window
// has the same event id.
func Verify(secret, header string, body []byte, now time.Time, window time.Duration) error {
	seconds, signature, ok := strings.Cut(strings.TrimPrefix(header, "t="), ",v1=")
	at, err := strconv.ParseInt(seconds, 10, 64)
	got, hexErr := hex.DecodeString(signature)
	if !ok || err != nil || hexErr != nil || !hmac.Equal(got, mac(secret, seconds, body)) {
		return ErrSignature
	}
	if now.Sub(time.Unix(at, 0)).Abs() > window {
		return ErrSignature
	}
	return nil
}
