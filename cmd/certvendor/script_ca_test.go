package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/device"
)

// keptIn is where a simulation says that it has left its devices' disks.
var keptIn = regexp.MustCompile(`disks are kept in (\S+)`)

// agents FILE ROOTS lets every device connect whose disk a simulation has kept,
// as its standard error in FILE says, with these roots for what it was made with;
// with ! none of them may.
func agents(ts *testscript.TestScript, neg bool, args []string) {
	found := keptIn.FindStringSubmatch(ts.ReadFile(args[0]))
	if found == nil {
		ts.Fatalf("%s names no directory", args[0])
	}
	disks, err := os.ReadDir(found[1])
	ts.Check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ts.ReadFile(args[1])))
	for _, disk := range disks {
		ctx, stop := context.WithTimeout(context.Background(), patience)
		connected := false
		a, err := device.New(device.Config{
			Device: disk.Name(), Broker: ts.Getenv("CERTVENDOR_STANDALONE_BROKER_LISTEN"), Roots: roots, RenewAt: -1,
			Directory: filepath.Join(found[1], disk.Name()),
			Event: func(e device.Event) {
				connected = connected || e.Kind == device.Connected
				if connected || e.Kind == device.Waiting || e.Kind == device.Disconnected {
					stop()
				}
			},
		})
		ts.Check(err)
		_ = a.Run(ctx) // ends with ctx
		stop()
		if connected == neg {
			ts.Fatalf("%s connected: %v", disk.Name(), connected)
		}
	}
	if len(disks) == 0 {
		ts.Fatalf("%s is empty", found[1])
	}
}

// corporate CSR CHAIN [PATHLEN0] makes a root of somebody else's that signs the
// request of an issuing CA; with a third argument it allows no CA below it.
func corporate(ts *testscript.TestScript, _ bool, args []string) {
	block, _ := pem.Decode([]byte(ts.ReadFile(args[0])))
	if block == nil {
		ts.Fatalf("%s is not PEM", args[0])
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	ts.Check(err)
	ts.Check(csr.CheckSignature())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	keyID, err := issuing.SubjectKeyID(key.Public())
	ts.Check(err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corporate Root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		SubjectKeyId: keyID, MaxPathLenZero: len(args) > 2,
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	ts.Check(err)
	ownID, err := issuing.SubjectKeyID(csr.PublicKey)
	ts.Check(err)
	own := &x509.Certificate{
		SerialNumber: big.NewInt(2), RawSubject: csr.RawSubject, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), SubjectKeyId: ownID,
	}
	ownDER, err := x509.CreateCertificate(rand.Reader, own, root, csr.PublicKey, key)
	ts.Check(err)
	var chain []byte
	for _, der := range [][]byte{ownDER, rootDER} {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), chain, 0o600))
}
