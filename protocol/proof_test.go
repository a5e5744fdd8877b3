package protocol_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

func proofKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"rsa": rsaKey}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[curve.Params().Name] = key
	}
	return keys
}

func TestProof(t *testing.T) {
	keys, others := proofKeys(t), proofKeys(t)
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			proof, err := protocol.SignProof(key, device, certificateID, nonce)
			if err != nil {
				t.Fatal(err)
			}
			if err := protocol.VerifyProof(key.Public(), device, certificateID, nonce, proof); err != nil {
				t.Errorf("a good proof: %v", err)
			}
			for what, err := range map[string]error{
				"another device":      protocol.VerifyProof(key.Public(), "thing002", certificateID, nonce, proof),
				"another certificate": protocol.VerifyProof(key.Public(), device, previousID, nonce, proof),
				"another nonce":       protocol.VerifyProof(key.Public(), device, certificateID, nonce+"A", proof),
				"no nonce":            protocol.VerifyProof(key.Public(), device, certificateID, "", proof),
				"moved borders":       protocol.VerifyProof(key.Public(), device+"\n"+certificateID, "", nonce, proof),
				"another key":         protocol.VerifyProof(others[name].Public(), device, certificateID, nonce, proof),
				"no key":              protocol.VerifyProof(nil, device, certificateID, nonce, proof),
				"no proof":            protocol.VerifyProof(key.Public(), device, certificateID, nonce, ""),
				"no base64":           protocol.VerifyProof(key.Public(), device, certificateID, nonce, "*"+proof),
				"an altered proof":    protocol.VerifyProof(key.Public(), device, certificateID, nonce, altered(t, proof)),
				"half a proof":        protocol.VerifyProof(key.Public(), device, certificateID, nonce, proof[:len(proof)/8*4]),
			} {
				if !errors.Is(err, protocol.ErrProof) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func altered(t *testing.T, proof string) string {
	t.Helper()
	signature, err := base64.StdEncoding.DecodeString(proof)
	if err != nil {
		t.Fatal(err)
	}
	signature[len(signature)-1] ^= 1
	return base64.StdEncoding.EncodeToString(signature)
}

// TestProofText makes a signature without SignProof, from the text that the
// page gives, so that code and page cannot change together unnoticed.
func TestProofText(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("certvendor-ack-v1\nthing001\n" + certificateID + "\n" + nonce))
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	err = protocol.VerifyProof(key.Public(), device, certificateID, nonce, base64.StdEncoding.EncodeToString(signature))
	if err != nil {
		t.Error(err)
	}
}

// TestProofOfAnotherKind: a key that is neither EC nor RSA proves nothing.
func TestProofOfAnotherKind(t *testing.T) {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := protocol.VerifyProof(public, device, certificateID, nonce, proof); !errors.Is(err, protocol.ErrProof) {
		t.Error(err)
	}
}

// lockedKey is a key that its token does not let sign.
type lockedKey struct{ crypto.Signer }

var errLocked = errors.New("locked")

func (lockedKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, errLocked }

func TestSignProofPassesOnTheKeysError(t *testing.T) {
	if _, err := protocol.SignProof(lockedKey{}, device, certificateID, nonce); !errors.Is(err, errLocked) {
		t.Error(err)
	}
}
