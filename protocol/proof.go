package protocol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// ErrProof is returned by VerifyProof for every proof that does not hold,
// whatever is wrong with it.
var ErrProof = errors.New("the proof does not hold")

// SignProof returns the member proof of an ack: a signature by the new key
// that says "this device holds the key of this certificate, and means this
// rotation". ECDSA signatures are ASN.1, RSA ones PKCS #1 v1.5, both over
// SHA-256.
func SignProof(key crypto.Signer, device, certificateID, nonce string) (string, error) {
	digest := proofDigest(device, certificateID, nonce)
	signature, err := key.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("sign the proof: %w", err)
	}
	return base64.StdEncoding.EncodeToString(signature), nil
}

// VerifyProof returns nil if proof was made by the private half of key for
// exactly this device, certificate and nonce, and ErrProof otherwise.
func VerifyProof(key crypto.PublicKey, device, certificateID, nonce, proof string) error {
	signature, err := base64.StdEncoding.DecodeString(proof)
	if err != nil {
		return ErrProof
	}
	digest := proofDigest(device, certificateID, nonce)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		if ecdsa.VerifyASN1(key, digest, signature) {
			return nil
		}
	case *rsa.PublicKey:
		if rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature) == nil {
			return nil
		}
	}
	return ErrProof
}

func proofDigest(device, certificateID, nonce string) []byte {
	sum := sha256.Sum256([]byte("certvendor-ack-v1\n" + device + "\n" + certificateID + "\n" + nonce))
	return sum[:]
}
