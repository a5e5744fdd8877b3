package aws

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/certvendor/certvendor/certificate"
)

// apiOf says which API a pattern of the fake is.
var apiOf = map[string]string{
	"GET /things/{thing}": "DescribeThing", "PATCH /things/{thing}": "UpdateThing",
	"GET /things/{thing}/principals-v2": "ListThingPrincipalsV2",
	"PUT /things/{thing}/principals":    "AttachThingPrincipal", "DELETE /things/{thing}/principals": "DetachThingPrincipal",
	"GET /principals/things": "ListPrincipalThings", "POST /certificate/register": "RegisterCertificate",
	"GET /certificates/{id}": "DescribeCertificate", "PUT /certificates/{id}": "UpdateCertificate",
	"DELETE /certificates/{id}": "DeleteCertificate", "POST /attached-policies/{target}": "ListAttachedPolicies",
	"PUT /target-policies/{policy}": "AttachPolicy", "POST /target-policies/{policy}": "DetachPolicy",
	"GET /cacertificate/{id}": "DescribeCACertificate", "GET /thing-groups/{group}": "DescribeThingGroup",
	"GET /thing-groups/{group}/things": "ListThingsInThingGroup", "PUT /thing-groups/addThingToThingGroup": "AddThingToThingGroup",
	"PUT /thing-groups/removeThingFromThingGroup": "RemoveThingFromThingGroup",
	"PUT /jobs/{job}": "CreateJob", "PATCH /jobs/{job}": "UpdateJob", "GET /jobs/{job}": "DescribeJob", "PUT /jobs/{job}/cancel": "CancelJob",
	"GET /jobs/{job}/things": "ListJobExecutionsForJob", "GET /things/{thing}/jobs/{job}": "DescribeJobExecution",
	"DELETE /things/{thing}/jobs/{job}/executionNumber/{number}": "DeleteJobExecution",
}

// deleted is how a certificate stands that the fake does not have any more.
const deleted = "DELETED"

// fakeThings are the certificates of a fakeIoT. One that is not here is ACTIVE,
// whatever it is.
type fakeThings struct {
	policies    map[string][]string // of a certificate; none here is three
	registered  []string            // certificates, in their order
	ca, caKey   string              // PEM: what DescribeCACertificate and GetParameter answer
	attachment  string              // of certificates to things
	attachments map[string]string   // of some, by their ARN
	meter       *fakeMeter
}

// fakeMeter lets so many calls a second to each API through as AWS documents,
// and notes when they came.
type fakeMeter struct {
	limits  map[string]*rate.Limiter
	came    map[string][]time.Time
	refused map[string]int
}

func newMeter() *fakeMeter {
	return &fakeMeter{limits: map[string]*rate.Limiter{}, came: map[string][]time.Time{}, refused: map[string]int{}}
}

// lets reports whether a call is let through.
func (m *fakeMeter) lets(api string) bool {
	if m == nil {
		return true
	}
	perSecond := documented(api)
	if m.limits[api] == nil {
		m.limits[api] = rate.NewLimiter(rate.Limit(perSecond), int(perSecond))
	}
	m.came[api] = append(m.came[api], time.Now())
	if m.limits[api].Allow() {
		return true
	}
	m.refused[api]++
	return false
}

func documented(api string) float64 {
	if perSecond, known := quotas[api]; known {
		return perSecond
	}
	return otherwise
}

// busiest returns how many calls to an API came within one second at most.
func (m *fakeMeter) busiest(api string) int {
	came, most, from := m.came[api], 0, 0
	for to := range came {
		for came[to].Sub(came[from]) >= time.Second {
			from++
		}
		most = max(most, to-from+1)
	}
	return most
}

// handleThings adds to the fake's routes what a rotation calls.
func (f *fakeIoT) handleThings(handle func(string, func(*http.Request, map[string]any) (int, any))) {
	f.policies = map[string][]string{}
	none := map[string]any{}
	handle("PATCH /things/{thing}", func(*http.Request, map[string]any) (int, any) { return 200, none })
	handle("PUT /things/{thing}/principals", func(r *http.Request, _ map[string]any) (int, any) {
		f.attach(r.PathValue("thing"), r.Header.Get("X-Amzn-Principal"))
		return 200, none
	})
	handle("DELETE /things/{thing}/principals", func(r *http.Request, _ map[string]any) (int, any) {
		thing, principal := r.PathValue("thing"), r.Header.Get("X-Amzn-Principal")
		f.principals[thing] = slices.DeleteFunc(f.principals[thing], func(p string) bool { return p == principal })
		return 200, none
	})
	handle("GET /principals/things", func(r *http.Request, _ map[string]any) (int, any) {
		page, next := f.paged(r, "nextToken", f.thingsOf(r.Header.Get("X-Amzn-Principal")))
		return 200, map[string]any{"things": page, "nextToken": next}
	})
	handle("POST /certificate/register", func(_ *http.Request, body map[string]any) (int, any) { return f.registers(body) })
	handle("PUT /certificates/{id}", func(r *http.Request, _ map[string]any) (int, any) {
		f.status[r.PathValue("id")] = r.URL.Query().Get("newStatus")
		return 200, none
	})
	handle("DELETE /certificates/{id}", func(r *http.Request, _ map[string]any) (int, any) {
		id := r.PathValue("id")
		switch {
		case len(f.thingsOf(fakeARN+"cert/"+id)) > 0:
			return 409, deleteConflict
		case f.statusOf(id) == "ACTIVE":
			return 406, "CertificateStateException"
		}
		f.status[id] = deleted
		return 200, none
	})
	handle("PUT /target-policies/{policy}", func(r *http.Request, body map[string]any) (int, any) {
		id, _ := certificateID(body["target"].(string))
		f.policies[string(id)] = append(f.policies[string(id)], r.PathValue("policy"))
		return 200, none
	})
	handle("POST /target-policies/{policy}", func(r *http.Request, body map[string]any) (int, any) {
		id, _ := certificateID(body["target"].(string))
		f.policies[string(id)] = slices.DeleteFunc(f.policies[string(id)], func(p string) bool { return p == r.PathValue("policy") })
		return 200, none
	})
	handle("GET /cacertificate/{id}", func(r *http.Request, _ map[string]any) (int, any) {
		return 200, map[string]any{"certificateDescription": map[string]any{
			"certificateId": r.PathValue("id"), "certificatePem": f.ca, "status": "ACTIVE",
		}}
	})
}

// attach is idempotent.
func (f *fakeIoT) attach(thing, principal string) {
	if !slices.Contains(f.principals[thing], principal) {
		f.principals[thing] = append(f.principals[thing], principal)
	}
}

func (f *fakeIoT) registers(body map[string]any) (int, any) {
	text := body["certificatePem"].(string)
	chain, err := readChain(text)
	if err != nil || len(chain) != 1 {
		return 400, "CertificateValidationException"
	}
	id := string(certificate.IDOf(chain[0].Raw))
	if _, there := f.pems[id]; there {
		return 409, alreadyExists
	}
	f.pems[id], f.status[id], f.policies[id] = text, body["status"].(string), nil
	f.registered = append(f.registered, id)
	return 200, map[string]any{"certificateId": id, "certificateArn": fakeARN + "cert/" + id}
}

func (f *fakeIoT) policiesOf(target string) []string {
	id, _ := certificateID(target)
	if policies, known := f.policies[string(id)]; known {
		return policies
	}
	return []string{"p1", "p2", "p3"}
}

func (f *fakeIoT) thingsOf(principal string) []string {
	var all []string
	for thing, principals := range f.principals {
		if slices.Contains(principals, principal) {
			all = append(all, thing)
		}
	}
	slices.Sort(all)
	return all
}

// post answers the services that have one path for everything.
func (f *fakeIoT) post(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		_, api, _ := strings.Cut(target, ".")
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		reply := any(map[string]any{"Parameter": map[string]any{"Name": "key", "Type": "SecureString", "Value": f.caKey}})
		switch {
		case !f.meter.lets(api):
			w.WriteHeader(http.StatusBadRequest)
			reply = map[string]any{"__type": "ThrottlingException", "message": "as the fake has it"}
		case api != "GetParameter":
			w.WriteHeader(http.StatusBadRequest)
			reply = map[string]any{"__type": "InvalidAction", "message": api}
		}
		_ = json.NewEncoder(w).Encode(reply)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprint(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>`+
		`<Arn>arn:aws-cn:sts::123456789012:assumed-role/certvendor/i-1</Arn><UserId>u</UserId><Account>123456789012</Account>`+
		`</GetCallerIdentityResult></GetCallerIdentityResponse>`)
}

// inProcess carries calls to a handler without a network, so that they take the
// time that a test wants them to take and no other.
type inProcess struct {
	handler http.Handler
	latency time.Duration
}

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(p.latency)
	served := r.Clone(r.Context())
	if served.Body == nil {
		served.Body = http.NoBody
	}
	recorder := httptest.NewRecorder()
	p.handler.ServeHTTP(recorder, served)
	answer := recorder.Result()
	answer.Request = r
	_, _ = io.Copy(io.Discard, served.Body)
	return answer, nil
}
