package aws

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/internal/store/storetest"
)

// tableOnMoto returns a table that is made, in an account of its own.
func tableOnMoto(t *testing.T, between func(http.RoundTripper) http.RoundTripper) sharedTable {
	t.Helper()
	table := sharedTable{dialMoto(t, newAccount(), between).Dynamo, "certvendor"}
	for range 2 { // the second finds it there
		if err := table.ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func openShared(t *testing.T, table sharedTable, instance string) (*store.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := store.Open(t.Context(), store.Config{
		Path: path, Instance: instance, Log: sharedLog{sharedTable: table, log: zerolog.Nop()}, LogName: table.name,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

func sameStores(t *testing.T, one, other string) {
	t.Helper()
	is, err := storetest.Dump(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := storetest.Dump(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(is, copied) {
		t.Errorf("the copy is not the same: %d rows and %d", len(is), len(copied))
	}
}

// large returns text that does not compress into one item.
func large(t *testing.T) string {
	t.Helper()
	random := make([]byte, 2*pieceSize)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, b := range random {
		out.WriteByte('!' + b%90)
	}
	return out.String()
}

func TestSharedStoreOnDynamoDB(t *testing.T) {
	table := tableOnMoto(t, nil)
	ctx := t.Context()
	one, first := openShared(t, table, "one")
	steps := []func() error{
		func() error { return one.Lead(ctx, 1) },
		func() error { return one.SetMeta(ctx, "a", "1") },
		func() error { return one.SetMeta(ctx, "large", large(t)) }, // an entry in pieces
	}
	for range entriesAtATime + 5 { // more than are read at a time
		steps = append(steps, func() error { return one.SetMeta(ctx, "a", rand.Text()) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	two, second := openShared(t, table, "two")
	if n, err := two.Follow(ctx); err != nil || n != len(steps) {
		t.Fatalf("followed %d of %d entries: %v", n, len(steps), err)
	}
	for range 2 { // of which the second drops what is before the first
		if err := errors.Join(one.SetMeta(ctx, "a", rand.Text()), one.Snapshot(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Snapshot(ctx); !errors.Is(err, store.ErrTaken) {
		t.Errorf("another snapshot of the same: %v", err)
	}
	left, err := sharedLog{sharedTable: table}.After(ctx, 0)
	if err != nil || len(left) != 1 {
		t.Errorf("%d entries are left: %v", len(left), err)
	}
	for _, part := range []string{partPieces, partCopies} {
		n := 0
		err := table.between(ctx, dynamodb.QueryInput{}, part, "0", last(""), func(item) (bool, error) { n++; return true, nil })
		if want := map[string]int{partPieces: 0, partCopies: 2 * 2}[part]; err != nil || n != want {
			t.Errorf("%d of %s are left, want %d: %v", n, part, want, err)
		}
	}
	three, third := openShared(t, table, "three")
	if err := three.Lead(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := one.SetMeta(ctx, "a", "late"); !errors.Is(err, store.ErrLost) {
		t.Errorf("the old leader writes: %v", err)
	}
	if _, err := two.Follow(ctx); !errors.Is(err, store.ErrBehind) {
		t.Errorf("one that is too far behind: %v", err)
	}
	if err := errors.Join(one.Close(), two.Close(), three.Close()); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{first, second} {
		again, err := store.Open(ctx, store.Config{Path: path, Instance: "again", Log: sharedLog{sharedTable: table, log: zerolog.Nop()}, LogName: table.name})
		if err != nil {
			t.Fatal(err)
		}
		_, err = again.Follow(ctx)
		if err := errors.Join(err, again.Close()); err != nil {
			t.Fatal(err)
		}
		sameStores(t, third, path)
	}
}

// deaf loses the answers to calls, which are carried out.
type deaf struct {
	next http.RoundTripper
	lose atomic.Int32 // so many
	api  string
}

func (d *deaf) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := d.next.RoundTrip(r)
	if err == nil && strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+d.api) && d.lose.Add(-1) >= 0 {
		answer.Body.Close()
		return nil, errors.New("connection reset")
	}
	return answer, err
}

// What was recorded and not answered is found to be our own, by the SDK's next
// attempt or by one of ours; it is not recorded twice, and nothing is lost.
func TestAnswersOfTheLogAreLost(t *testing.T) {
	between := &deaf{api: "PutItem"}
	table := tableOnMoto(t, func(next http.RoundTripper) http.RoundTripper {
		between.next = next
		return between
	})
	one, first := openShared(t, table, "one")
	if err := one.Lead(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, lost := range []int32{1, attempts, attempts + 1} {
		between.lose.Store(lost)
		before := one.Shared().Seq
		if err := one.SetMeta(t.Context(), "a", rand.Text()); err != nil {
			t.Fatalf("%d answers lost: %v", lost, err)
		}
		if after := one.Shared().Seq; after != before+1 {
			t.Errorf("%d answers lost: from entry %d to %d", lost, before, after)
		}
	}
	two, second := openShared(t, table, "two")
	_, err := two.Follow(t.Context())
	if err := errors.Join(err, one.Close(), two.Close()); err != nil {
		t.Fatal(err)
	}
	sameStores(t, first, second)
}

func TestLease(t *testing.T) {
	between := &deaf{api: "PutItem"}
	table := tableOnMoto(t, func(next http.RoundTripper) http.RoundTripper {
		between.next = next
		return between
	})
	ctx := t.Context()
	take := func(l *lease) int64 {
		t.Helper()
		epoch, err := l.try(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return epoch
	}
	const long = time.Hour
	one, two := newLease(table, "one", long), newLease(table, "two", long)
	between.lose.Store(attempts)
	if _, err := one.try(ctx); err == nil {
		t.Error("it has the lease, of which it was not told")
	}
	if take(two) != 0 {
		t.Error("taken before anything was seen of its holder")
	}
	// The other has counted since the answer was lost; it counts anew.
	two.lasts = 0
	if take(one) != 1 || take(two) != 0 {
		t.Error("two have it at once")
	}
	two.lasts = long
	if take(two) != 0 || one.holds() != nil || take(two) != 0 || two.holds() == nil || two.leader() != "one" {
		t.Errorf("one holds the lease: %v, and two says %q", one.holds(), two.leader())
	}
	if err := one.renew(ctx); err != nil || take(two) != 0 {
		t.Errorf("renewed: %v", err)
	}
	// Given up, it is another's at once; the first knows at its next renewal.
	if err := one.release(ctx); err != nil || take(two) != 2 || one.holds() == nil {
		t.Errorf("released: %v; two has it: %v", err, two.holds())
	}
	if err := one.renew(ctx); !errors.Is(err, errLease) {
		t.Errorf("renewed what is another's: %v", err)
	}
	// Silence for as long as it lasts, which one sees by its own clock alone.
	two.lasts, one.lasts = time.Millisecond, time.Millisecond
	if take(one) != 0 {
		t.Error("taken before anything was seen of its holder")
	}
	for limit := time.Now().Add(time.Minute); take(one) != 3; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("it is never taken")
		}
	}
	if err := two.renew(ctx); !errors.Is(err, errLease) {
		t.Errorf("renewed what was taken: %v", err)
	}
}

// A machine that was suspended does not know it by its steady clock.
func TestTheLeaseEndsWhileTheMachineSleeps(t *testing.T) {
	wall := time.Now()
	l := newLease(sharedTable{}, "one", time.Minute)
	l.wall = func() time.Time { return wall }
	l.hold(1, l.now())
	if err := l.holds(); err != nil {
		t.Fatal(err)
	}
	wall = wall.Add(time.Hour)
	if l.holds() == nil {
		t.Error("an hour later it leads still")
	}
	wall = wall.Add(-2 * time.Hour) // set back, which is no reason to lead for longer, or to end
	if err := l.holds(); err != nil {
		t.Error(err)
	}
}

// openWay counts who comes through.
type openWay struct{ opened int }

func (w *openWay) Open(context.Context) (net.Conn, error) { w.opened++; return nil, nil }
func (w *openWay) Stale(time.Time) bool                   { return true }

// Nor does it connect to the broker, where it would put out the one that leads.
// Once an instance is not to lead any more, no renewal brings that back, though the
// table says that the lease is still its own.
func TestTheLeaseIsForgotten(t *testing.T) {
	l := newLease(sharedTable{dynamo: dynamodb.New(dynamodb.Options{
		Region: "eu-west-1", Credentials: aws.AnonymousCredentials{}, HTTPClient: &http.Client{Transport: agrees{}},
	}), name: "certvendor"}, "one", time.Minute)
	l.hold(1, l.now())
	if err := errors.Join(l.renew(t.Context()), l.holds()); err != nil {
		t.Fatal(err)
	}
	l.forget()
	for range 2 {
		if err := l.renew(t.Context()); !errors.Is(err, errLease) || l.holds() == nil {
			t.Errorf("renewed: %v; it holds the lease: %v", err, l.holds())
		}
	}
}

// agrees is a service that agrees to everything.
type agrees struct{}

func (agrees) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}"))}, nil
}

func TestNoConnectionWithoutTheLease(t *testing.T) {
	leads, through := true, &openWay{}
	way := WhileLeading(through, func() bool { return leads })
	if _, err := way.Open(t.Context()); err != nil || !way.Stale(time.Now()) {
		t.Fatal(err)
	}
	leads = false
	if _, err := way.Open(t.Context()); !errors.Is(err, errLease) || through.opened != 1 {
		t.Errorf("opened %d times, %v", through.opened, err)
	}
}

// No call to AWS goes out once the lease has ended, but for those to the table.
func TestNoCallsWithoutTheLease(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	var leads error
	clients.Quotas.whileLeading(func() error { return leads })
	ask := func() error {
		_, err := clients.STS.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	leads = errLease
	if err := ask(); !errors.Is(err, errLease) {
		t.Errorf("a call went out: %v", err)
	}
	if err := (sharedTable{clients.Dynamo, "certvendor"}).ensure(t.Context()); err != nil {
		t.Errorf("the table is out of reach: %v", err)
	}
}

func TestATableOfSomethingElseIsRefused(t *testing.T) {
	clients := dialMoto(t, newAccount(), nil)
	other := SharedTable("certvendor")
	other.KeySchema, other.AttributeDefinitions = other.KeySchema[:1], other.AttributeDefinitions[:1]
	if _, err := clients.Dynamo.CreateTable(context.Background(), other); err != nil {
		t.Fatal(err)
	}
	err := sharedTable{clients.Dynamo, "certvendor"}.ensure(t.Context())
	if err == nil || !strings.Contains(err.Error(), "aws.journal.table") {
		t.Errorf("got %v", err)
	}
}

// TestCrashesOfInstancesThatShare sits the crashes of the examination of every
// world, where after each another instance goes on, with nothing on its disk but
// what the table has. The one that has crashed is never told.
func TestCrashesOfInstancesThatShare(t *testing.T) {
	motoURL(t)
	backendtest.Run(t, func(t *testing.T, clock *backendtest.Clock) backendtest.World {
		account := newAccount()
		clients := dialMoto(t, account, nil)
		prepareAccount(t, account, clients, "given", "device")
		config := testConfig(account, clients, clock.Now, t.TempDir())
		config.Issuer, config.Sharing = given(softwareCA(t, clock.Now)), Sharing{Table: "certvendor", Lease: time.Hour}
		return examinedShared(t, config)
	}, "crash")
}

func examinedShared(t *testing.T, config Config) backendtest.World {
	t.Helper()
	shared, err := StandBy(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	config.Shared = shared
	if err := shared.Lead(t.Context()); err != nil {
		t.Fatal(errors.Join(err, shared.Close()))
	}
	w := examinedWorld(t, config, nil)
	w.Crash = func() backendtest.World {
		// Its lease is not waited for.
		if err := shared.lease.release(t.Context()); err != nil {
			t.Fatal(err)
		}
		config.Data, config.Shared = t.TempDir(), nil
		return examinedShared(t, config)
	}
	return w
}

func TestClocksOfInstancesMayDiffer(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for ahead, want := range map[time.Duration]time.Duration{
		-time.Hour: -time.Hour, 0: 0, time.Second: 0, clocksMayDiffer: 0, clocksMayDiffer + 1: clocksMayDiffer + 1,
	} {
		s := &Shared{config: Config{Now: func() time.Time { return now }}, newest: now.Add(ahead)}
		if got := s.Newest().Sub(now); got != want {
			t.Errorf("the clock of who led is %s ahead: %s, want %s", ahead, got, want)
		}
	}
}

// sharing has a world be that of an instance that leads.
func sharing(t *testing.T) func(*Config) {
	return func(config *Config) {
		t.Helper()
		config.Sharing = Sharing{Table: "certvendor", Lease: time.Hour}
		shared, err := StandBy(t.Context(), *config)
		if err != nil {
			t.Fatal(err)
		}
		if err := shared.Lead(t.Context()); err != nil {
			t.Fatal(errors.Join(err, shared.Close()))
		}
		config.Shared = shared
	}
}

// recordedMost is how many commits a rotation may be, of a thing that rotates
// alone: those of many share theirs. It is 17, and more on a machine so slow that
// what may wait for seconds is written in between.
const recordedMost = 24

// TestWhatARotationRecords counts the entries of one rotation and their size.
// `go test -v` prints them.
func TestWhatARotationRecords(t *testing.T) {
	c := newCourse(t, certificate.Deactivate, nil, sharing(t))
	shared := c.world.config.Shared
	before := shared.Entry()
	c.wantWhole(c.turn())
	entries, err := shared.log.After(t.Context(), before)
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, e := range entries {
		size += len(e.Statements)
	}
	t.Logf("%d entries of %d octets in all", len(entries), size)
	if len(entries) == 0 || len(entries) > recordedMost {
		t.Errorf("%d entries", len(entries))
	}
}
