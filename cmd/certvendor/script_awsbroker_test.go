package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/loopback"
)

// awsBroker plays AWS's broker with its topic rules, which moto and mosquitto do
// not: it lets in whoever has a certificate that is ACTIVE at moto, and
// republishes requests with it.
type awsBroker struct {
	mqtt.HookBase
	server *mqtt.Server
	iot    *iot.Client
	key    string // file with the rules' key; missing: the rules do nothing
	trace  atomic.Int64
}

// startBroker [RULE-KEY] starts the broker for the scripts of a region, and
// configures the daemon to use it with a certificate of its own.
func startBroker(ts *testscript.TestScript, clients *aws.Clients, args []string) {
	address, err := loopback.Address()
	ts.Check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	writePEM(ts, "broker.crt", "CERTIFICATE", der)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	writePEM(ts, "broker.key", "PRIVATE KEY", pkcs8)
	listener, err := tls.Listen("tcp", address, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequireAnyClientCert,
	})
	ts.Check(err)
	b := &awsBroker{iot: clients.IoT}
	if len(args) > 0 {
		b.key = ts.MkAbs(args[0])
	}
	b.server = mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	ts.Check(b.server.AddHook(b, nil))
	stop, err := loopback.ServeMQTT(b.server, listener)
	ts.Check(err)
	ts.Defer(func() { _ = stop() })
	for name, value := range map[string]string{
		"ENDPOINT": address, "WAY": "mtls", "CA": ts.MkAbs("broker.crt"), "CERTIFICATE": ts.MkAbs("broker.crt"), "KEY": ts.MkAbs("broker.key"),
	} {
		ts.Setenv("CERTVENDOR_AWS_BROKER_"+name, value)
	}
}

// Provides says what the broker decides.
func (b *awsBroker) Provides(what byte) bool {
	return what == mqtt.OnConnectAuthenticate || what == mqtt.OnACLCheck || what == mqtt.OnPublished
}

func (b *awsBroker) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

// OnConnectAuthenticate lets in who is ACTIVE at moto, and who is not known
// there: the daemon, and no device.
func (b *awsBroker) OnConnectAuthenticate(client *mqtt.Client, _ packets.Packet) bool {
	id := peerOf(client)
	out, err := b.iot.DescribeCertificate(context.Background(), &iot.DescribeCertificateInput{CertificateId: &id})
	if err != nil {
		return !strings.HasPrefix(client.ID, "certvendor-doctor-")
	}
	return out.CertificateDescription.Status == types.CertificateStatusActive
}

func peerOf(client *mqtt.Client) string {
	conn, is := client.Net.Conn.(*tls.Conn)
	if !is {
		return ""
	}
	return string(certificate.IDOf(conn.ConnectionState().PeerCertificates[0].Raw))
}

// OnPublished is the topic rules.
func (b *awsBroker) OnPublished(client *mqtt.Client, packet packets.Packet) {
	levels := strings.Split(packet.TopicName, "/")
	key, err := os.ReadFile(b.key)
	if err != nil || len(levels) != 4 || levels[0] != "cdf" || client.Net.Inline {
		return
	}
	encode := func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	secret := strings.TrimSpace(string(key))
	members := []string{
		secret, encode(string(packet.Payload)), peerOf(client), encode(client.ID), encode(packet.TopicName),
		fmt.Sprintf("trace-%d", b.trace.Add(1)), fmt.Sprint(time.Now().UnixMilli()),
	}
	envelope, err := json.Marshal(map[string]any{
		"payloadB64": members[1], "certId": members[2], "clientId": client.ID, "thing": levels[2], "action": levels[3],
		"traceId": members[5], "ts": json.Number(members[6]), "mac": hash(secret + "|" + hash(strings.Join(members, "|"))),
	})
	if err == nil {
		_ = b.server.Publish(aws.Inbox+"/"+levels[2]+"/"+levels[3], envelope, false, 1)
	}
}

// trials N waits until so many things of a doctor's trial are there.
func trials(ts *testscript.TestScript, clients *aws.Clients, args []string) {
	for limit := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		things, err := clients.IoT.ListThings(context.Background(), &iot.ListThingsInput{})
		ts.Check(err)
		if fmt.Sprint(len(things.Things)) == args[0] {
			return
		}
		if time.Now().After(limit) {
			ts.Fatalf("%d things", len(things.Things))
		}
	}
}

// untouched checks that nothing of a trial is left in the region.
func untouched(ts *testscript.TestScript, clients *aws.Clients) {
	ctx := context.Background()
	things, err := clients.IoT.ListThings(ctx, &iot.ListThingsInput{})
	ts.Check(err)
	certificates, err := clients.IoT.ListCertificates(ctx, &iot.ListCertificatesInput{})
	ts.Check(err)
	policies, err := clients.IoT.ListPolicies(ctx, &iot.ListPoliciesInput{})
	ts.Check(err)
	if n := len(things.Things) + len(certificates.Certificates) + len(policies.Policies); n > 0 {
		ts.Fatalf("%d things, %d certificates, %d policies are left", len(things.Things), len(certificates.Certificates), len(policies.Policies))
	}
}
