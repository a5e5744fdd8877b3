package aws

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
)

// moto is the one double of AWS that the tests of this package share.
var moto struct {
	start   sync.Once
	url     string
	err     error
	process *exec.Cmd
	account atomic.Int64
	failed  atomic.Int64 // calls, of moto's own accord
}

func TestMain(m *testing.M) {
	code := m.Run()
	if moto.process != nil {
		_ = moto.process.Process.Kill()
		_ = moto.process.Wait()
	}
	os.Exit(code)
}

// motoURL returns where moto listens. Without moto a test is skipped, and fails
// where CI is set.
func motoURL(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("moto_server"); err != nil {
		const get = "needs moto_server on PATH: pip install 'moto[server]==5.2.1'"
		if os.Getenv("CI") == "true" {
			t.Fatal(get)
		}
		t.Skip(get)
	}
	moto.start.Do(func() { moto.err = startMoto() })
	if moto.err != nil {
		t.Fatal(moto.err)
	}
	return moto.url
}

var listens = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

func startMoto() error {
	cmd := exec.Command("python3", "testdata/launch.py", "-H", "127.0.0.1", "-p", "0")
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start moto: %w", err)
	}
	moto.process = cmd
	lines := bufio.NewScanner(said)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if found := listens.FindStringSubmatch(lines.Text()); found != nil {
			moto.url = found[1]
			break
		}
	}
	if moto.url == "" {
		return fmt.Errorf("moto has ended without listening: does python3 have the moto of moto_server?")
	}
	go func() { // its log of requests, until it ends
		for lines.Scan() {
			continue
		}
	}()
	return nil
}

// otherAccount puts calls into an account of their own: moto has a state for
// each.
type otherAccount struct {
	account string
	next    http.RoundTripper
}

func (o otherAccount) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("x-moto-account-id", o.account)
	answer, err := o.next.RoundTrip(r)
	if err != nil || answer.StatusCode >= http.StatusInternalServerError {
		moto.failed.Add(1)
	}
	return answer, err
}

// newAccount returns the number of an account that nobody has used.
func newAccount() string { return fmt.Sprintf("%012d", 100_000_000_000+moto.account.Add(1)) }

// dialMoto returns clients of an account at moto, through a transport that may
// stand in between.
func dialMoto(t *testing.T, account string, between func(http.RoundTripper) http.RoundTripper) *Clients {
	t.Helper()
	url := motoURL(t)
	quotas, err := NewQuotas(1, everything(1e6), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	var transport http.RoundTripper = otherAccount{account, http.DefaultTransport}
	if between != nil {
		transport = between(transport)
	}
	clients, err := Dial(t.Context(), Account{
		Region: "eu-west-1", Endpoint: url, HTTP: &http.Client{Transport: transport, Timeout: 20 * time.Second},
		Credentials: credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "secret", ""), Quotas: quotas,
		Backoff: 5 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// everything lets so many calls a second to each API through.
func everything(perSecond float64) map[string]float64 {
	rates := map[string]float64{"otherwise": perSecond}
	for api := range quotas {
		rates[api] = perSecond
	}
	return rates
}
