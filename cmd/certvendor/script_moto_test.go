package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/certvendor/certvendor/internal/control"
)

// launcher starts moto such that certificates have the ids that AWS gives them.
var launcher, _ = filepath.Abs("../../internal/aws/testdata/launch.py")

var motoListens = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// getMoto says how to get what the tests need.
const getMoto = "needs moto_server on PATH: pip install 'moto[server]==5.2.1'"

// hasMoto reports whether there is a double of AWS; where CI is set there must
// be.
func hasMoto() (bool, error) {
	_, err := exec.LookPath("moto_server")
	if err != nil && os.Getenv("CI") == "true" {
		return false, errors.New(getMoto)
	}
	return err == nil, nil
}

// launchMoto starts a double of AWS. It returns its URL, its process id, and what
// ends it.
func launchMoto() (url string, pid int, stop func(), err error) {
	cmd := exec.Command("python3", launcher, "-H", "127.0.0.1", "-p", "0")
	said, err := cmd.StderrPipe()
	if err != nil {
		return "", 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", 0, nil, err
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	lines := bufio.NewScanner(said)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if found := motoListens.FindStringSubmatch(lines.Text()); found != nil {
			go func() {
				for lines.Scan() { // its log of requests, until it ends
					continue
				}
			}()
			return found[1], cmd.Process.Pid, stop, nil
		}
	}
	stop()
	return "", 0, nil, errors.New("moto has ended without listening")
}

// moto starts a double of AWS for the script, whose URL is in the environment;
// `moto stop` ends it.
func moto(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) > 0 {
		pid, err := strconv.Atoi(ts.Getenv("MOTO_PID"))
		ts.Check(err)
		ts.Check(syscall.Kill(pid, syscall.SIGKILL))
		return
	}
	url, pid, stop, err := launchMoto()
	ts.Check(err)
	ts.Defer(stop)
	for name, value := range map[string]string{
		"MOTO": url, "MOTO_PID": strconv.Itoa(pid), "CERTVENDOR_AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_REGION": "eu-west-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"RULE_KEY": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
	} {
		ts.Setenv(name, value)
	}
}

// motoIoT is a client of the script's double.
func motoIoT(ts *testscript.TestScript) *iot.Client {
	url := ts.Getenv("MOTO")
	return iot.NewFromConfig(awssdk.Config{
		Region: "eu-west-1", BaseEndpoint: &url, Credentials: credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "secret", ""),
	})
}

// things FROM TO makes things at the double, each with a certificate.
func things(ts *testscript.TestScript, _ bool, args []string) {
	from, err := strconv.Atoi(args[0])
	ts.Check(err)
	to, err := strconv.Atoi(args[1])
	ts.Check(err)
	client, ctx := motoIoT(ts), context.Background()
	for i := from; i < to; i++ {
		name := fmt.Sprintf("thing-%03d", i)
		_, err := client.CreateThing(ctx, &iot.CreateThingInput{ThingName: &name})
		ts.Check(err)
		made, err := client.RegisterCertificateWithoutCA(ctx, &iot.RegisterCertificateWithoutCAInput{
			CertificatePem: new(leafFor(ts, name)), Status: types.CertificateStatusActive,
		})
		ts.Check(err)
		_, err = client.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: &name, Principal: made.CertificateArn})
		ts.Check(err)
		ts.Setenv("CERTIFICATE", *made.CertificateId)
	}
}

func leafFor(ts *testscript.TestScript, name string) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(8760 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// synced waits until a sync has read so many, or with no number until the daemon
// answers: without a broker it is never ready.
func synced(ts *testscript.TestScript, _ bool, args []string) {
	least := 0
	if len(args) > 0 {
		var err error
		least, err = strconv.Atoi(args[0])
		ts.Check(err)
	}
	daemon := control.Dial(ts.Getenv("CERTVENDOR_CONTROL_SOCKET"))
	defer daemon.Close()
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		s, err := daemon.Sync(context.Background())
		if err == nil && s.Read >= least {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("the sync stands at %+v: %v", s, err)
		}
	}
}
