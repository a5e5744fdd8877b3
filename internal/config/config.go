// Package config is everything that can be configured: one struct whose
// comments are the manual, read from one YAML file and overridden from the
// environment.
//
// Read Config, then load.go for where values come from, decode.go for what is
// an error, and validate.go for what cannot work.
package config

import (
	"slices"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// Config is the whole configuration. Every field has a default, which Default
// returns and config.yaml shows, so that a file names only what differs.
//
// Durations are written as Go does: "5m", "168h", "0s". Relative paths are
// relative to the file. Every key can be overridden by an environment
// variable: rotation.grace by CERTVENDOR_ROTATION_GRACE.
type Config struct {
	// Backend is the world certvendor works in: standalone (default: a broker,
	// a store, a CA and package files of its own) or aws (things of AWS IoT
	// Core, see AWS).
	Backend Backend `yaml:"backend"`
	// Observe has the daemon decide and log what it would answer to every get and
	// ack, and answer nothing, vend nothing, remove nothing and add nobody to the
	// group; the socket refuses what would. For running beside another vendor on
	// the same topics. Sightings are recorded. Default false.
	Observe bool `yaml:"observe"`
	// Control is the operator's socket.
	Control Control `yaml:"control"`
	// Metrics is the listener for /metrics, /healthz and /readyz.
	Metrics Metrics `yaml:"metrics"`
	// MQTT is what devices and certvendor speak over.
	MQTT MQTT `yaml:"mqtt"`
	// Vending says what devices get.
	Vending Vending `yaml:"vending"`
	// Limits bound what one device may ask.
	Limits Limits `yaml:"limits"`
	// CSR says which certificate requests are signed.
	CSR CSR `yaml:"csr"`
	// Policy says which policies a new certificate carries.
	Policy Policy `yaml:"policy"`
	// Admit says who may speak for a device.
	Admit Admit `yaml:"admit"`
	// Rotation says how a fleet changes its certificates.
	Rotation Rotation `yaml:"rotation"`
	// Job is the job that tells devices to rotate.
	Job Job `yaml:"job"`
	// Webhook tells others what happens.
	Webhook Webhook `yaml:"webhook"`
	// Approval asks somebody else about each request.
	Approval Approval `yaml:"approval"`
	// CA is the certificate authority's key.
	CA CA `yaml:"ca"`
	// Standalone is the world on one's own machines.
	Standalone Standalone `yaml:"standalone"`
	// AWS is the world of one account and region of AWS; only for backend aws.
	AWS AWS `yaml:"aws"`
	// Log is what the daemon writes to its standard error.
	Log Log `yaml:"log"`
}

// Backend names a world.
type Backend string

// The worlds.
const (
	StandaloneBackend Backend = "standalone" // machines of one's own
	AWSBackend        Backend = "aws"        // AWS IoT Core
)

// Control is the operator's socket.
type Control struct {
	// Socket is the path of the Unix socket that the CLI talks to; at most
	// 107 characters, once it is absolute. Default data/control.sock.
	Socket string `yaml:"socket"`
	// Group is the system group whose members may use the socket, which then
	// has mode 0660. Optional: without it, only the daemon's own user and
	// root may (0600).
	Group string `yaml:"group"`
	// TLS answers operators over TCP too, where no socket reaches the daemon.
	TLS ControlTLS `yaml:"tls"`
}

// ControlTLS is the operator's API over mutual TLS. Whoever shows a
// certificate of ClientCA may do what its common name is listed for.
type ControlTLS struct {
	// Listen is host:port. Default empty: no listener.
	Listen string `yaml:"listen"`
	// Certificate is a PEM file with the server's certificate and chain, read
	// anew for each connection. Optional, with Key: without it, operators see
	// the certificate that devices see.
	Certificate string `yaml:"certificate"`
	// Key is the PEM file with the key of Certificate.
	Key string `yaml:"key"`
	// ClientCA lists PEM files of the CAs that sign operators' certificates.
	// None may be one that signs for devices.
	ClientCA []string `yaml:"client_ca"`
	// Viewers are the common names of those who may see everything and change
	// nothing.
	Viewers []string `yaml:"viewers"`
	// Operators may rotate as well: groups, campaigns, packages, freeze and
	// thaw, retry and undo.
	Operators []string `yaml:"operators"`
	// Admins may do everything: let devices in and take them out, revoke,
	// change the CA, make backups.
	Admins []string `yaml:"admins"`
}

// Metrics is the listener for monitoring.
type Metrics struct {
	// Listen is host:port for plain HTTP, without authentication. Default
	// 127.0.0.1:9464. Empty: no listener.
	Listen string `yaml:"listen"`
}

// MQTT is what devices and certvendor speak over.
type MQTT struct {
	// Topics are the templates of the protocol's topics.
	Topics Topics `yaml:"topics"`
}

// Topics are the templates of the protocol's topics. Each holds {thingName}
// once, as a level of its own. Both replies of an action stand directly below
// one level, so that one subscription hears them.
type Topics struct {
	// Get is where a device asks. Default cdf/certificates/{thingName}/get.
	Get string `yaml:"get"`
	// GetAccepted is where a get is granted. Default .../get/accepted.
	GetAccepted string `yaml:"get_accepted"`
	// GetRejected is where a get is refused. Default .../get/rejected.
	GetRejected string `yaml:"get_rejected"`
	// Ack is where a device reports success. Default
	// cdf/certificates/{thingName}/ack.
	Ack string `yaml:"ack"`
	// AckAccepted is where an ack is granted. Default .../ack/accepted.
	AckAccepted string `yaml:"ack_accepted"`
	// AckRejected is where an ack is refused. Default .../ack/rejected.
	AckRejected string `yaml:"ack_rejected"`
}

// Vending says what devices get.
type Vending struct {
	// Validity is how long a new certificate is valid, within its CA's own
	// validity. Default 26280h, three years.
	Validity time.Duration `yaml:"validity"`
	// Backdate is how far before now a new certificate's validity begins, for
	// devices whose clock is slow. Default 5m.
	Backdate time.Duration `yaml:"backdate"`
	// LinkTTL is how long a link to a package works. Default 300s.
	LinkTTL time.Duration `yaml:"link_ttl"`
	// NewKeys is how many new keys a device may bring in which time; the same
	// key again is free. Default 6/24h.
	NewKeys Rate `yaml:"new_keys"`
	// UnprovenAck says what an ack gets of which nobody knows over which
	// certificate it came: accept (default; the device leaves the group and
	// nothing is removed) or reject.
	UnprovenAck UnprovenAck `yaml:"unproven_ack"`
	// Patience is how long a request may wait for its answer before the
	// device is told to try again later; the work goes on behind. More of it
	// serves a herd of devices whose firmware cannot read a refusal late
	// rather than never; a device that waits is not answered to its pings
	// meanwhile. Less than a minute. Default 5s.
	Patience time.Duration `yaml:"patience"`
}

// UnprovenAck says what an ack without evidence gets.
type UnprovenAck string

// The answers to an ack without evidence.
const (
	AcceptUnproven UnprovenAck = "accept"
	RejectUnproven UnprovenAck = "reject"
)

// Limits bound what one device may ask.
type Limits struct {
	// PerDevice is how many gets a device may send in which time. Acks are
	// never limited by gets. Default 10/s.
	PerDevice Rate `yaml:"per_device"`
	// Burst is how many gets may come at once before PerDevice counts.
	// Default 20.
	Burst int `yaml:"burst"`
}

// CSR says which certificate requests are signed.
type CSR struct {
	// Subject says where the subject of a new certificate comes from: verify
	// (default: the request's common name, which must be the device's),
	// force (the device id, whatever the request says), previous (the subject
	// of the certificate being replaced) or accept (the request's subject).
	Subject certificate.NameMode `yaml:"subject"`
	// CN lists patterns of further common names by which a device may call
	// itself: "{thing}", "lower({thing})" or "base64({thing})" once, with any
	// text around. Optional.
	CN []string `yaml:"cn"`
	// ReuseKey says whether a key that was in use already may get another
	// certificate: refuse (default) or allow.
	ReuseKey ReuseKey `yaml:"reuse_key"`
}

// ReuseKey says whether a used key may get another certificate.
type ReuseKey string

// The answers to a used key.
const (
	RefuseReuse ReuseKey = "refuse"
	AllowReuse  ReuseKey = "allow"
)

// Policy says which policies a new certificate carries. The standalone world
// records their names and shows them; its broker's rules do not depend on
// them.
type Policy struct {
	// Mode is default (the policy named by Default), inherit (those of the
	// certificate that is replaced) or none. Optional: inherit with backend
	// aws, default with any other.
	Mode vending.PolicyMode `yaml:"mode"`
	// Default is the name of the policy for mode default, and for mode
	// inherit where nothing can be inherited. Default certvendor-device.
	Default string `yaml:"default"`
	// InheritAllow names the only policies that may be inherited. Optional:
	// empty allows all.
	InheritAllow []string `yaml:"inherit_allow"`
}

// Admit says who may speak for a device.
type Admit struct {
	// Binding is how the certificate of a connection must belong to the
	// device: attached (default: the inventory says that the device holds
	// it), cn (its common name is the device's) or attached-or-cn. With backend
	// aws attached is the only one.
	Binding vending.Binding `yaml:"binding"`
}

// Rotation says how a fleet changes its certificates.
type Rotation struct {
	// Group is the name of the rotation group. Default cdfRotateCertificates.
	Group string `yaml:"group"`
	// Previous is what becomes of a replaced certificate: keep, deactivate
	// (default) or delete.
	Previous certificate.Mode `yaml:"previous"`
	// Retire says which certificates a rotation replaces: replaced (default:
	// the one the device asked over, or named) or all (every certificate that
	// was active on the device when the rotation began).
	Retire rotation.Scope `yaml:"retire"`
	// Grace is how long a replaced certificate is kept after the new one is
	// proven. Default 168h; 0s removes it at the ack.
	Grace time.Duration `yaml:"grace"`
	// TTL is how long a vended certificate may show no sign of life before
	// its rotation is listed as stale. Nothing is removed then. Default 720h.
	TTL time.Duration `yaml:"ttl"`
	// Settle is how long devices are watched after a start, and after a
	// device was seen on a new certificate without an ack, before anything is
	// removed. Default 15m.
	Settle time.Duration `yaml:"settle"`
	// Recent is how fresh the latest sighting of the device on its new
	// certificate must be to justify a removal. Default 24h.
	Recent time.Duration `yaml:"recent"`
	// MaxRetirePerHour is the circuit breaker: more removals within an hour
	// freeze retiring until an operator thaws it. Default 0: twice what
	// PerMinute allows.
	MaxRetirePerHour int `yaml:"max_retire_per_hour"`
	// PerMinute is how many members of the group get their job per minute, 1
	// to 1,000,000. Default 120.
	PerMinute int `yaml:"per_minute"`
	// MaxInFlight is how many members may be at work on their job at a time; a
	// device that has not taken it after ten minutes sleeps, and is not counted.
	// Default 500.
	MaxInFlight int `yaml:"max_in_flight"`
	// Keep is how long a finished rotation stays in the store; the last one of
	// each device always does, and so does what the audit says of all. Default
	// 8760h, a year; 0s keeps all.
	Keep time.Duration `yaml:"keep"`
	// Status is what the registry is told of a device when its rotation ends,
	// besides the id and the end of its certificate.
	Status Status `yaml:"status"`
	// SweepEvery is the pause between two looks at what is due. Default 1m.
	SweepEvery time.Duration `yaml:"sweep_every"`
	// Auto rotates devices as their certificates come due.
	Auto Auto `yaml:"auto"`
}

// Status is an attribute of a device.
type Status struct {
	// Name is the attribute's. Default status; empty writes none.
	Name string `yaml:"name"`
	// Value is the attribute's. Default active.
	Value string `yaml:"value"`
}

// Auto has devices enter the campaign "auto" as their certificates come due,
// each at a moment of its own, so that what ends on one day is not replaced on
// one day. An operator sees, pauses and resumes it as any campaign.
type Auto struct {
	// Enabled switches it on. Default false.
	Enabled bool `yaml:"enabled"`
	// Before is how long before its end a certificate comes due: a time such as
	// 30d, or a part of its lifetime such as 25%; never more than half of its
	// lifetime. Devices enter within the first half of it. Optional: a third of
	// the lifetime, and at least 30 days where that is at most half of it.
	Before Before `yaml:"before"`
	// Except lists attributes, name=value: devices with one of them never enter.
	// Optional.
	Except []string `yaml:"except"`
	// Campaign says how fast they are let in, and when it stops.
	Campaign AutoCampaign `yaml:"campaign"`
}

// AutoCampaign is what a campaign's file says, as far as it makes sense for one
// that has no list of devices and no end.
type AutoCampaign struct {
	// PerMinute is how many devices are let in per minute, 1 to 1,000,000.
	// Default 60.
	PerMinute int `yaml:"per_minute"`
	// MaxInFlight is how many of them may be at work at a time. Default 250.
	MaxInFlight int `yaml:"max_in_flight"`
	// Soak is for how long after its proof a device fails if it goes back.
	// Default 0s.
	Soak time.Duration `yaml:"soak"`
	// VerifyWithin is how long a device may take from the vend to the proof.
	// Default 1h.
	VerifyWithin time.Duration `yaml:"verify_within"`
	// Abort says when it stops, until an operator resumes it: when at least
	// AtLeast devices failed, and at least that share, of the latest 1,000 that
	// came to their end within a week. Default 5%, 3.
	Abort campaign.Abort `yaml:"abort"`
	// Window is the time of the day in which devices are let in, by their own
	// clocks; Zone names an attribute. Default: always.
	Window campaign.Window `yaml:"window"`
}

// Job is the job that tells devices to rotate.
type Job struct {
	// InProgressTimeout is how long a device may be at work on its job before
	// it counts as TIMED_OUT. Default 24h.
	InProgressTimeout time.Duration `yaml:"in_progress_timeout"`
}

// Approval asks somebody else about each get and ack that everything else lets
// in: {"deviceId", "action", "certificateId"}, answered by {"allow", "reason",
// "profile"}. Where nobody answers, the device is told to try again later.
type Approval struct {
	// URL is asked by POST, https:// and without a password in it. Optional:
	// empty asks nobody, or Function. It is never logged: only its host is.
	URL string `yaml:"url"`
	// Token is sent to URL as "Authorization: Bearer". A reference, as Secret
	// describes. Optional.
	Token Secret `yaml:"token"`
	// CA is a PEM file with what the certificate of URL is verified by.
	// Optional: the system's CAs.
	CA string `yaml:"ca"`
	// Function is the name or ARN of a Lambda function that is asked instead;
	// only for backend aws.
	Function string `yaml:"function"`
	// Timeout bounds a question; less than vending.patience. Default 3s.
	Timeout time.Duration `yaml:"timeout"`
}

// Webhook tells others over HTTPS what happens: signed, and again until it is
// taken. What is still to be told survives restarts.
type Webhook struct {
	// URL is where events are posted to, https:// and without a password in it.
	// Optional: empty tells nobody. It is never logged: only its host is.
	URL string `yaml:"url"`
	// Secret is what every delivery is signed with, of at least 16 octets; with
	// URL. A reference, as Secret describes.
	Secret Secret `yaml:"secret"`
	// CA is a PEM file with what the receiver's certificate is verified by.
	// Optional: the system's CAs.
	CA string `yaml:"ca"`
	// Events names what is told, of WebhookEvents. Optional: all of them.
	Events []string `yaml:"events"`
	// CADays lists how many days before the issuing CA, or one above it, expires
	// that is told. Default 180, 90, 30, 14, 7, 1.
	CADays []int `yaml:"ca_days"`
	// Keep is how long it is tried; what nobody has taken by then is dropped and
	// counted. Default 168h.
	Keep time.Duration `yaml:"keep"`
}

// WebhookEvents are the events that can be told.
var WebhookEvents = []string{
	"campaign.started", "campaign.gate", "campaign.paused", "campaign.resumed", "campaign.stopped",
	"campaign.aborted", "campaign.canceled", "campaign.finished", "rotations.stale", "ca.days_left",
}

// Tells reports whether an event is told.
func (w Webhook) Tells(event string) bool {
	return w.URL != "" && (len(w.Events) == 0 || slices.Contains(w.Events, event))
}

// CA is the certificate authority's key.
type CA struct {
	// Passphrase encrypts the CA keys on disk. Optional: without it they are
	// stored unencrypted, and every start says so. A reference, as Secret
	// describes.
	Passphrase Secret `yaml:"passphrase"`
}

// Standalone is the world on one's own machines.
type Standalone struct {
	// Data is the directory of everything durable. It is made with mode 0700.
	// Default data.
	Data string `yaml:"data"`
	// Names are the host names and addresses that the server certificate is
	// for; the host's own name is always added. Default localhost, 127.0.0.1
	// and ::1.
	Names []string `yaml:"names"`
	// ClientCA lists PEM files of foreign CAs whose certificates may connect,
	// so that a fleet made elsewhere can be adopted. They are trusted for
	// connecting only. Optional.
	ClientCA []string `yaml:"client_ca"`
	// ServerCertificate is a PEM file with the server's certificate and
	// chain, in place of one that certvendor makes. Optional; with ServerKey.
	ServerCertificate string `yaml:"server_certificate"`
	// ServerKey is the PEM file with the key of ServerCertificate.
	ServerKey string `yaml:"server_key"`
	// ServerCA is a PEM file with what devices verify ServerCertificate by.
	// Optional: what follows the leaf in ServerCertificate, or the leaf.
	ServerCA string `yaml:"server_ca"`
	// Broker is the MQTT broker.
	Broker Broker `yaml:"broker"`
	// Packages are key and certificate in one file, for download.
	Packages Packages `yaml:"packages"`
}

// Broker is the MQTT broker of the standalone world.
type Broker struct {
	// Listen is host:port for MQTT over TLS. Default 127.0.0.1:8883.
	Listen string `yaml:"listen"`
	// Expired is how long after its expiry a certificate may still connect,
	// for get, ack and jobs only. Default 0s.
	Expired time.Duration `yaml:"expired"`
	// MaxUnfinished is how many connections may be waiting for, or be in, their
	// TLS handshake and CONNECT at a time; beyond it, or half of it from one
	// address but loopback, new ones are closed. Default 4096.
	MaxUnfinished int `yaml:"max_unfinished"`
	// MaxConnectionsPerDevice is how many connections one device may have;
	// one more takes the place of the one that was silent longest. Default 8.
	MaxConnectionsPerDevice int `yaml:"max_connections_per_device"`
	// Topics are further topics that devices may use among themselves, so
	// that the broker can carry a fleet's own traffic.
	Topics BrokerTopics `yaml:"topics"`
}

// BrokerTopics are topic filters beyond the protocol's. {thingName} stands for
// the connection's device.
type BrokerTopics struct {
	// Publish lists what devices may publish to. Optional.
	Publish []string `yaml:"publish"`
	// Subscribe lists what devices may subscribe to. Optional.
	Subscribe []string `yaml:"subscribe"`
}

// Packages are the packages of the standalone world.
type Packages struct {
	// Listen is host:port for HTTPS downloads. Default 127.0.0.1:8443.
	Listen string `yaml:"listen"`
	// URL is the beginning of every link, where devices reach the listener by
	// another name. Optional: https:// and Listen, with the first of
	// standalone.names where Listen names no host.
	URL string `yaml:"url"`
	// Keep says that a package's file outlives its use. Default false: it is
	// deleted when a rotation was finished with it.
	Keep bool `yaml:"keep"`
}

// Log is what the daemon writes to its standard error, as JSON lines.
type Log struct {
	// Level is the least severe level written: debug, info, warn or error.
	// Default info.
	Level string `yaml:"level"`
}

// Default returns the configuration of an empty file, with its paths as they
// would stand in it.
func Default() Config {
	return Config{
		Backend: StandaloneBackend,
		Control: Control{
			Socket: "data/control.sock",
			TLS:    ControlTLS{ClientCA: []string{}, Viewers: []string{}, Operators: []string{}, Admins: []string{}},
		},
		Metrics: Metrics{Listen: "127.0.0.1:9464"},
		MQTT:    MQTT{Topics: Topics(protocol.DefaultTopics())},
		Vending: Vending{
			Validity: 26280 * time.Hour, Backdate: 5 * time.Minute, LinkTTL: 300 * time.Second,
			NewKeys: Rate{6, 24 * time.Hour}, UnprovenAck: AcceptUnproven, Patience: 5 * time.Second,
		},
		Limits: Limits{PerDevice: Rate{10, time.Second}, Burst: 20},
		CSR:    CSR{Subject: certificate.VerifyName, CN: []string{}, ReuseKey: RefuseReuse},
		Policy: Policy{Default: "certvendor-device", InheritAllow: []string{}},
		Admit:  Admit{Binding: vending.Attached},
		Rotation: Rotation{
			Group: "cdfRotateCertificates", Previous: certificate.Deactivate, Retire: rotation.Replaced,
			Grace: 168 * time.Hour, TTL: 720 * time.Hour, Settle: 15 * time.Minute, Recent: 24 * time.Hour,
			PerMinute: 120, MaxInFlight: 500, Keep: 8760 * time.Hour, SweepEvery: time.Minute,
			Status: Status(rotation.DefaultStatus),
			Auto: Auto{Except: []string{}, Campaign: AutoCampaign{
				PerMinute: 60, MaxInFlight: 250, VerifyWithin: time.Hour,
				Abort: campaign.Abort{Failed: campaign.Share{Percent: 5}, AtLeast: 3},
			}},
		},
		Job:      Job{InProgressTimeout: 24 * time.Hour},
		Approval: Approval{Timeout: 3 * time.Second},
		Webhook:  Webhook{Events: []string{}, CADays: []int{180, 90, 30, 14, 7, 1}, Keep: 168 * time.Hour},
		AWS:      defaultAWS(),
		Standalone: Standalone{
			Data: "data", Names: []string{"localhost", "127.0.0.1", "::1"}, ClientCA: []string{},
			Broker: Broker{
				Listen: "127.0.0.1:8883", MaxUnfinished: 4096, MaxConnectionsPerDevice: 8,
				Topics: BrokerTopics{Publish: []string{}, Subscribe: []string{}},
			},
			Packages: Packages{Listen: "127.0.0.1:8443"},
		},
		Log: Log{Level: "info"},
	}
}
