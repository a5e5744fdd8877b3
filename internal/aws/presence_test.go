package aws

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	iottypes "github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// writes evaluates a statement of ours on an event, and puts what comes of it
// into the table, as the topic rule does.
func writes(t *testing.T, c *Clients, sql, event string) {
	t.Helper()
	row := rowOf(t, sql, event)
	if row == nil {
		return
	}
	item := map[string]types.AttributeValue{}
	for name, value := range row {
		if text, is := value.(string); is {
			item[name] = &types.AttributeValueMemberS{Value: text}
			continue
		}
		item[name] = &types.AttributeValueMemberN{Value: fmt.Sprint(value)}
	}
	_, err := c.Dynamo.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: new(PresenceTable("certvendor")), Item: item})
	if err != nil {
		t.Fatal(err)
	}
}

// rowOf returns what a statement selects of an event, or nil if it does not
// concern it.
func rowOf(t *testing.T, sql, event string) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(event))
	decoder.UseNumber()
	fields := map[string]any{}
	if err := decoder.Decode(&fields); err != nil {
		t.Fatal(err)
	}
	for name, value := range fields {
		if number, is := value.(json.Number); is {
			fields[name], _ = number.Int64()
		}
		if value == "" {
			delete(fields, name) // AWS leaves it out
		}
	}
	e := &ruleEngine{t: t, text: sql, fields: fields}
	row := e.selected()
	_, e.text, _ = strings.Cut(e.text, " WHERE ")
	if e.expression() != true {
		return nil
	}
	return row
}

// withTable makes the table of presence as setup does, and returns its reader.
func withTable(t *testing.T, c *Clients, now func() time.Time) *Presence {
	t.Helper()
	table := &tablePart{account: account{clients: c, owner: "certvendor"}, name: PresenceTable("certvendor")}
	if err := table.make(t.Context(), Step{Do: DoCreate}); err != nil {
		t.Fatal(err)
	}
	return NewPresence(c.Dynamo, table.name, now)
}

// What the statements write is what the daemon reads: the last connection with
// each certificate, in whatever order they come, and no refusal.
func TestPresenceTable(t *testing.T) {
	clients, now := dialMoto(t, newAccount(), nil), time.Now().Truncate(time.Millisecond)
	table := withTable(t, clients, func() time.Time { return now })
	old, next := principalOf("old"), principalOf("next")
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	connected := func(client, thing, principal string, when time.Time) {
		t.Helper()
		writes(t, clients, connectedSQL, event(client, thing, principal, when))
	}
	connected("pump-7", "", old, at(-1))
	connected("pump-7/candidate", "", next, at(-5))
	connected("pump-7", "", old, at(-9)) // told late
	connected("console", "pump-7", next, at(-3))
	connected("pump-7", "", "AROA:session", at(-2))
	connected("pump-8", "", next, at(-2))
	writes(t, clients, refusedSQL, strings.Replace(event("pump-7", "", next, at(0)), "connected", "connect_failed", 1))
	got, _, err := table.Of(t.Context(), "pump-7")
	want := []vending.Caller{
		{Device: "pump-7", Certificate: certificate.ID(next), Evidence: certificate.Presence, At: at(-3)},
		{Device: "pump-7", Certificate: certificate.ID(old), Evidence: certificate.Presence, At: at(-1)},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("read %+v, %v; want %+v", got, err, want)
	}
	row := rowOf(t, connectedSQL, event("pump-7/candidate", "", next, now))
	if row[presenceExpires] != now.Unix()+int64(presenceKept/time.Second) || row["client"] != "pump-7/candidate" {
		t.Errorf("writes %v", row)
	}
	if _, _, err := NewPresence(clients.Dynamo, "none", time.Now).Of(t.Context(), "pump-7"); !errors.Is(err, ErrNoTable) {
		t.Errorf("without a table: %v", err)
	}
}

// presenceCourse is a course with a table that is written by our statements.
type presenceCourse struct{ *course }

func newPresenceCourse(t *testing.T) presenceCourse {
	t.Helper()
	c := newCourse(t, certificate.Deactivate, nil, func(config *Config) {
		config.Presence = NewPresence(config.Clients.Dynamo, PresenceTable("certvendor"), config.Now)
	})
	withTable(t, c.clients, c.clock.Now)
	c.grace = time.Hour
	c.serve()
	return presenceCourse{c}
}

func (c *presenceCourse) connects(id certificate.ID) {
	c.t.Helper()
	c.clock.Advance(time.Second)
	writes(c.t, c.clients, connectedSQL, event(courseThing, "", string(id), c.clock.Now()))
}

func (c *presenceCourse) sweep() []rotation.Retirement {
	c.t.Helper()
	_, err := c.closer.Sweep(c.ctx)
	c.must(err)
	all, err := c.world.Backend().Rotations.Retirements(c.ctx, rotation.Query{Device: courseThing})
	c.must(err)
	return all
}

// A device that has gone back to its old certificate, of which the table alone
// knows, keeps it until it comes to the new one again.
func TestTheTableKeepsWhatADeviceIsOn(t *testing.T) {
	c := newPresenceCourse(t)
	vended := c.turn()
	c.clock.Advance(2 * time.Hour)
	c.connects(c.old)
	if all := c.sweep(); len(all) != 1 || !all[0].Reverted || !all[0].Deactivated.IsZero() {
		t.Fatalf("retirements %+v: the device is on the old certificate", all)
	}
	c.connects(vended)
	if all := c.sweep(); !all[0].Reverted {
		t.Fatalf("looked for again at once: %+v", all)
	}
	c.clock.Advance(lookAgain)
	if all := c.sweep(); all[0].Reverted || !all[0].Deactivated.IsZero() {
		t.Fatalf("retirements %+v: the grace starts anew", all)
	}
	c.clock.Advance(2 * time.Hour)
	c.connects(vended)
	if all := c.sweep(); all[0].Deactivated.IsZero() {
		t.Errorf("retirements %+v", all)
	}
}

// Where our clock is behind that of AWS, all that is newer counts as now; in the
// order in which it was.
func TestTheTableOfAnotherClock(t *testing.T) {
	clients, now := dialMoto(t, newAccount(), nil), time.Now().Truncate(time.Millisecond)
	table := withTable(t, clients, func() time.Time { return now })
	old, next := principalOf("old"), principalOf("next")
	writes(t, clients, connectedSQL, event("pump-7", "", old, now.Add(2*time.Minute)))
	writes(t, clients, connectedSQL, event("pump-7", "", next, now.Add(time.Minute)))
	got, _, err := table.Of(t.Context(), "pump-7")
	if err != nil || len(got) != 2 || got[1].Certificate != certificate.ID(old) || !got[0].At.Before(got[1].At) || got[1].At.After(now) {
		t.Errorf("read %+v, %v: the old certificate was the last", got, err)
	}
}

// Others who connect under the device's name do not hide that it has gone back.
func TestOthersUnderTheDevicesName(t *testing.T) {
	c := newPresenceCourse(t)
	c.turn()
	c.clock.Advance(2 * time.Hour)
	c.connects(c.old)
	for n := range newestRead {
		c.connects(certificate.ID(principalOf(fmt.Sprint("other", n%2))))
	}
	if all := c.sweep(); len(all) != 1 || !all[0].Deactivated.IsZero() || !strings.Contains(all[0].Why, "of others") {
		t.Errorf("retirements %+v: the device is on the old certificate", all)
	}
}

// Two things share a certificate, and it was taken from the one when that worked with
// its own. That has lost its own since and is on the shared one, as AWS lets it: when
// the other thing gives it up, it stays ACTIVE until the one is on its own again.
func TestFormerHolderThatCameBack(t *testing.T) {
	c := newPresenceCourse(t)
	i := c.world.inventory
	own := c.made(otherThing, certificate.Rotated)
	shared, err := i.lookUp(c.ctx, c.old)
	c.must(err)
	c.must(i.rows.Register(c.ctx, otherThing, own))
	c.must(i.rows.Register(c.ctx, otherThing, shared))
	connects := func(id certificate.ID) {
		c.clock.Advance(time.Minute)
		writes(t, c.clients, connectedSQL, event(otherThing, "", string(id), c.clock.Now()))
	}
	connects(c.old)
	connects(own.ID)
	vended := c.turn()
	c.must(i.rows.Retire(c.ctx, certificate.Removal{
		Device: otherThing, Certificate: c.old, Mode: certificate.Deactivate, Allowed: func([]certificate.Holding) error { return nil },
	}))
	connects(c.old)
	c.clock.Advance(2 * time.Hour)
	c.connects(vended)
	c.wantKept("rotation undo " + otherThing)
	connects(own.ID)
	c.wantRetired()
}

// A device whose certificates are not its alone connects under another name than its
// own: the table has nothing of it, and so not that it has gone back, either.
func TestUnderAnotherNameNobodyIsHeard(t *testing.T) {
	c := newPresenceCourse(t)
	connects := func(client string, id certificate.ID) {
		c.clock.Advance(time.Second)
		writes(t, c.clients, connectedSQL, event(client, "", string(id), c.clock.Now()))
	}
	vended := c.turn()
	connects("serial-9", vended)
	c.clock.Advance(time.Hour)
	connects("serial-9", c.old)
	c.clock.Advance(time.Hour)
	if all := c.sweep(); len(all) != 1 || !all[0].Deactivated.IsZero() || !strings.Contains(all[0].Why, "client id") {
		t.Fatalf("retirements %+v: the device is on the old certificate", all)
	}
	connects(courseThing+"/9", vended)
	if all := c.sweep(); all[0].Deactivated.IsZero() {
		t.Errorf("retirements %+v: it is heard now", all)
	}
}

// A device that acks nothing is proven by its connection, but not by one of
// before. Without a table nothing is taken away.
func TestTheTableProves(t *testing.T) {
	var said bytes.Buffer
	c := newPresenceCourse(t)
	c.world.config.Log = zerolog.New(&said)
	csr := backendtest.CSR(c.key, courseThing)
	got := c.ask(c.old, "get", fmt.Sprintf(`{"csr": %q}`, csr))
	state := func() rotation.State {
		t.Helper()
		_, err := c.closer.Sweep(c.ctx)
		c.must(err)
		h, err := c.world.Backend().Journal.Find(c.ctx, courseThing)
		c.must(err)
		return h.Rotations[len(h.Rotations)-1].State
	}
	around := func() {
		t.Helper()
		_, err := c.world.lookAround(c.ctx, "")
		c.must(err)
	}
	around()
	if is := state(); is != rotation.Vended || said.Len() > 0 {
		t.Fatalf("the rotation is %s; said %s", is, said.String())
	}
	c.clock.Advance(lookAgain)
	refusal := event(courseThing, "", string(got.CertificateID), c.clock.Now())
	writes(t, c.clients, refusedSQL, strings.Replace(refusal, "connected", "connect_failed", 1))
	around()
	if is := state(); is != rotation.Vended || !strings.Contains(said.String(), "does not let the device connect") {
		t.Fatalf("the rotation is %s; said %s", is, said.String())
	}
	said.Reset()
	c.connects(got.CertificateID)
	around()
	if is := state(); is != rotation.Vended {
		t.Fatalf("looked for again at once: the rotation is %s", is)
	}
	c.clock.Advance(lookAgain)
	around()
	if said.Len() > 0 {
		t.Errorf("said of a device that has come: %s", said.String())
	}
	if is := state(); is != rotation.Proven && is != rotation.Finished {
		t.Fatalf("the rotation is %s", is)
	}
	c.clock.Advance(3 * time.Minute)
	c.sweep()
	c.clock.Advance(2 * time.Hour)
	_, err := c.clients.Dynamo.DeleteTable(c.ctx, &dynamodb.DeleteTableInput{TableName: new(PresenceTable("certvendor"))})
	c.must(err)
	if all := c.sweep(); len(all) != 1 || !all[0].Deactivated.IsZero() || !strings.Contains(all[0].Why, "`certvendor setup` makes it") {
		t.Errorf("retirements %+v", all)
	}
}

// Before an ack of which nobody knows over which certificate it came, its
// device's connections are handed on.
func TestTheTableIsReadBeforeAnAck(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	table := withTable(t, clients, time.Now)
	b := startBroker(t)
	r := newRig(t, b, func(c *MQTTConfig) { c.Identity, c.Keys, c.Table = Direct, nil, table })
	soon(t, "it listens", func() bool { return r.bus.Ready() == nil })
	at := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	writes(t, clients, connectedSQL, event("pump-7", "", principalOf("pump-7"), at))
	pump := b.client("pump-7", "cdf/certificates/pump-7/+/+")
	pump.say("cdf/certificates/pump-7/get", "one")
	soon(t, "the reply to the get", func() bool { return slices.Equal(pump.heard(""), []string{"one"}) })
	present := func() []vending.Caller {
		r.ends.mu.Lock()
		defer r.ends.mu.Unlock()
		return slices.Clone(r.ends.present)
	}
	if got := present(); len(got) > 0 {
		t.Errorf("looked for before a get: %v", got)
	}
	pump.say("cdf/certificates/pump-7/ack", "two")
	soon(t, "the reply to the ack", func() bool { return slices.Contains(pump.heard(""), "two") })
	want := vending.Caller{
		Device: "pump-7", Certificate: certificate.ID(principalOf("pump-7")), Evidence: certificate.Presence, At: at,
	}
	if got := present(); len(got) != 1 || got[0] != want {
		t.Errorf("handed on %+v, want %+v", got, want)
	}
}

// The removal is recorded, and AWS does not hear of it. Meanwhile the device has lost
// its new certificate and is on the old one, as AWS lets it: that stays, until the
// device is on the new one again or a person decides; also for the next process, and
// however long that takes.
func TestGoneBackBeforeAWSIsTold(t *testing.T) {
	for name, table := range map[string]bool{
		"table": true, "requests": false, "undone": true, "set back": false, "restarted": false, "days later": false,
	} {
		t.Run(name, func(t *testing.T) {
			f := &refusal{method: "PUT", path: "/certificates/", status: 503, code: "ServiceUnavailableException"}
			k := refusedCourse(t, f, func(config *Config) {
				if table {
					config.Presence = NewPresence(config.Clients.Dynamo, PresenceTable("certvendor"), config.Now)
				}
			})
			c := presenceCourse{k}
			withTable(t, c.clients, c.clock.Now)
			works := func(on certificate.ID) {
				t.Helper()
				if c.connects(on); !table {
					c.once(on, protocol.Ack, "{}")
				}
			}
			c.grace = time.Hour
			c.serve()
			vended := c.turn()
			c.clock.Advance(2 * time.Hour)
			works(vended)
			f.mu.Lock()
			f.times = 1000
			f.mu.Unlock()
			c.clock.Advance(lookAgain)
			if all, err := c.retire(); err == nil || !all[0].Deactivated.IsZero() {
				t.Fatalf("AWS was told: %+v", all)
			}
			f.mu.Lock()
			f.times = 0
			f.mu.Unlock()

			if name == "set back" { // all of that was by a clock that ran ahead
				c.clock.Jump(-3 * time.Hour)
			}
			works(c.old)
			switch name {
			case "restarted":
				config := c.world.config
				c.must(c.world.Close())
				c.reopen(config)
				c.clock.Advance(2 * time.Minute)
			case "days later":
				c.clock.Advance(72 * time.Hour)
			}
			if err := c.world.inventory.Settle(c.ctx); !errors.As(err, &rotation.Kept{}) {
				t.Errorf("settled: %v", err)
			}
			if name == "set back" {
				if is := c.statusAtAWS(c.old); is != iottypes.CertificateStatusActive {
					t.Errorf("the certificate that the device is on is %s", is)
				}
				return
			}
			if all, err := c.retire(); err != nil || !all[0].Reverted || !strings.Contains(all[0].Why, "rotation undo "+courseThing) {
				t.Errorf("%v, retirements %+v", err, all)
			}
			if is := c.statusAtAWS(c.old); is != iottypes.CertificateStatusActive {
				t.Fatalf("the certificate that the device is on is %s", is)
			}
			if name == "undone" {
				c.undo(vended)
				return
			}
			works(vended)
			c.must(c.world.inventory.Settle(c.ctx))
			if is := c.statusAtAWS(c.old); is != iottypes.CertificateStatusInactive {
				t.Errorf("the device is on the new one, and the old one is %s", is)
			}
		})
	}
}

// undo undoes the rotation, as a person is told to: the device works with its old
// certificate, and rotates again over it.
func (c *presenceCourse) undo(vended certificate.ID) {
	c.t.Helper()
	undone, err := c.closer.Undo(c.ctx, courseThing)
	if err != nil || !slices.Equal(undone.Back, []certificate.ID{c.old}) {
		c.t.Fatalf("undone: %+v, %v", undone, err)
	}
	c.must(c.world.inventory.Settle(c.ctx))
	c.key = backendtest.NewKey()
	if next := c.ask(c.old, protocol.Get, c.csr()).CertificateID; next == vended || c.statusAtAWS(c.old) != iottypes.CertificateStatusActive {
		c.t.Errorf("vended %s again, and the old one is %s", next, c.statusAtAWS(c.old))
	}
}

// retire sweeps, and returns what has become of the retirements.
func (c *presenceCourse) retire() ([]rotation.Retirement, error) {
	c.t.Helper()
	_, swept := c.closer.Sweep(c.ctx)
	all, err := c.world.Backend().Rotations.Retirements(c.ctx, rotation.Query{Device: courseThing})
	c.must(err)
	if len(all) != 1 {
		c.t.Fatalf("%d retirements", len(all))
	}
	return all, swept
}
