package main

import (
	"context"
	"crypto/x509"
	"os"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/certvendor/certvendor/device"
	"github.com/certvendor/certvendor/internal/aws"
)

// createPolicy NAME FILE is what `aws iot create-policy` does.
func createPolicy(ts *testscript.TestScript, clients *aws.Clients, args []string) {
	document := ts.ReadFile(args[1])
	_, err := clients.IoT.CreatePolicy(context.Background(), &iot.CreatePolicyInput{PolicyName: &args[0], PolicyDocument: &document})
	ts.Check(err)
}

// rotatesOnAWS NAME DIR has a device rotate with the files that `device add` has
// written, over the broker of the script.
func rotatesOnAWS(ts *testscript.TestScript, _ bool, args []string) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ts.ReadFile("broker.crt")))
	file := func(kind string) []byte {
		text, err := os.ReadFile(ts.MkAbs(args[1] + "/" + args[0] + kind))
		ts.Check(err)
		return text
	}
	disk := ts.MkAbs("disk")
	ts.Check(device.Provision(disk, file(".crt"), file(".key")))
	agent, err := device.New(device.Config{
		Device: args[0], Broker: ts.Getenv("CERTVENDOR_AWS_BROKER_ENDPOINT"), Roots: roots, Directory: disk, TakeOver: true,
	})
	ts.Check(err)
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	ts.Check(agent.Rotate(ctx))
}
