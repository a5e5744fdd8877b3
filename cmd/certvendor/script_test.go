package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
	"github.com/certvendor/certvendor/internal/loopback"
)

// The scripts run this program as it is, in processes of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"certvendor": main})
}

// patience is how long a daemon may take for what is waited for.
const patience = time.Minute

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// A Unix socket's path is short.
			e.Setenv("CERTVENDOR_CONTROL_SOCKET", filepath.Join(e.WorkDir, "s"))
			e.Setenv("CERTVENDOR_METRICS_LISTEN", "")
			for _, name := range []string{
				"CERTVENDOR_STANDALONE_BROKER_LISTEN", "CERTVENDOR_STANDALONE_PACKAGES_LISTEN", "REMOTE",
			} {
				address, err := loopback.Address()
				if err != nil {
					return err
				}
				e.Setenv(name, address)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":     ready,
			"terminate": terminate,
			"mode":      mode,
			"devices":   devices,
			"connects":  connects,
			"foreign":   foreign,
			"operators": operators,
			"gets":      gets,
			"acks":      acks,
			"id":        certificateID,
			"listed":    listed,
			"newer":     newer,
			"open":      keepOpen,
			"closed":    waitClosed,
			"capture":   capture,
			"stands":    stands,
			"agents":    agents,
			"corporate": corporate,
			"moto":      moto,
			"things":    things,
			"synced":    synced,
		},
		Condition: func(condition string) (bool, error) {
			if condition != "moto" {
				return false, fmt.Errorf("no condition %q", condition)
			}
			return hasMoto()
		},
	})
}

// ready waits until the daemon answers.
func ready(ts *testscript.TestScript, neg bool, _ []string) {
	daemon := control.Dial(ts.Getenv("CERTVENDOR_CONTROL_SOCKET"))
	defer daemon.Close()
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := daemon.Ready(context.Background())
		if (err == nil) != neg {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("the daemon is not ready: %v", err)
		}
	}
}

// terminate sends SIGTERM, as a service manager does, to the daemon that the
// data directory's lock names.
func terminate(ts *testscript.TestScript, _ bool, _ []string) {
	text, err := os.ReadFile(ts.MkAbs("data/lock"))
	ts.Check(err)
	var pid int
	_, err = fmt.Sscanf(string(text), "with pid %d,", &pid)
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGTERM))
}

// devices N waits until the registry holds so many.
func devices(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	daemon := control.Dial(ts.Getenv("CERTVENDOR_CONTROL_SOCKET"))
	defer daemon.Close()
	for limit := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		n := 0
		for _, err := range daemon.Devices(context.Background(), nil) {
			ts.Check(err)
			n++
		}
		if n == want {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("%d devices, want %d", n, want)
		}
	}
}

// mode FILE PERMISSIONS checks a file's permissions.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	want, err := strconv.ParseUint(args[1], 8, 32)
	ts.Check(err)
	if got := info.Mode().Perm(); got != os.FileMode(want) {
		ts.Fatalf("%s has mode %#o, want %#o", args[0], got, want)
	}
}

// stands CAMPAIGN WHAT N waits until so many of a campaign's devices stand so; with
// WHAT alone, until it is in that state.
func stands(ts *testscript.TestScript, _ bool, args []string) {
	daemon := control.Dial(ts.Getenv("CERTVENDOR_CONTROL_SOCKET"))
	defer daemon.Close()
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		is, err := daemon.Campaign(context.Background(), args[0])
		ts.Check(err)
		if len(args) == 2 && string(is.State) == args[1] {
			return
		}
		if len(args) == 3 && strconv.Itoa(is.Standings[campaign.Standing(args[1])]) == args[2] {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("campaign %s is %s %v, want %v", args[0], is.State, is.Standings, args[1:])
		}
	}
}

// capture NAME EXPRESSION sets a variable to what the expression's parentheses
// match first in the last output.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	expression, err := regexp.Compile(args[1])
	ts.Check(err)
	found := expression.FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) < 2 {
		ts.Fatalf("nothing in the output matches %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}

// connects NAME CERTIFICATE KEY checks that the broker takes a device, or with
// ! that it does not.
func connects(ts *testscript.TestScript, neg bool, args []string) {
	certificate, err := tls.LoadX509KeyPair(ts.MkAbs(args[1]), ts.MkAbs(args[2]))
	ts.Check(err)
	roots := x509.NewCertPool()
	text, err := os.ReadFile(ts.MkAbs("out/ca.crt"))
	ts.Check(err)
	roots.AppendCertsFromPEM(text)
	target := fleet.Target{Broker: ts.Getenv("CERTVENDOR_STANDALONE_BROKER_LISTEN"), Roots: roots}
	err = fleet.CanConnect(context.Background(), target, args[0], certificate)
	if (err == nil) == neg {
		ts.Fatalf("connect as %s: %v", args[0], err)
	}
}

// foreign CA.crt NAME... makes a CA of somebody else's, and certificates of it
// as NAME.crt and NAME.key.
func foreign(ts *testscript.TestScript, _ bool, args []string) {
	makeCA(ts, args, func(i int, _ string) string { return fmt.Sprintf("made elsewhere %d", i) })
}

// operators CA.crt NAME... makes a CA, and for each name a certificate of it
// whose common name that is, as NAME.crt and NAME.key.
func operators(ts *testscript.TestScript, _ bool, args []string) {
	makeCA(ts, args, func(_ int, name string) string { return name })
}

func makeCA(ts *testscript.TestScript, args []string, commonName func(i int, name string) string) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: args[0]}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	ts.Check(err)
	writePEM(ts, args[0], "CERTIFICATE", der)
	for i, name := range args[1:] {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		ts.Check(err)
		leaf := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 2), Subject: pkix.Name{CommonName: commonName(i, name)},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
		ts.Check(err)
		writePEM(ts, name+".crt", "CERTIFICATE", der)
		der, err = x509.MarshalPKCS8PrivateKey(key)
		ts.Check(err)
		writePEM(ts, name+".key", "PRIVATE KEY", der)
	}
}

func writePEM(ts *testscript.TestScript, name, kind string, der []byte) {
	ts.Check(os.WriteFile(ts.MkAbs(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
