package aws

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/certvendor/certvendor/internal/backend/backendtest"
)

// fakeIoT speaks the wire of AWS IoT for what moto cannot do: lists in pages,
// executions of a group's things, throttling. It is in another partition.
type fakeIoT struct {
	page int

	mu         sync.Mutex
	group      []string
	others     map[string]int // how many other groups a thing is in
	executions map[string]*fakeExecution
	job        map[string]any // as it was made
	jobID      string
	jobStatus  string
	former     map[string]bool     // ids of jobs before it
	principals map[string][]string // of a thing
	pems       map[string]string   // by id
	status     map[string]string   // of a certificate; ACTIVE where it is not here
	things     []string
	findings   []string // ids of certificates
	throttle   int      // how many calls are throttled yet
	calls      []string
	onCall     func(n int) // optional
	noGroup    bool        // somebody has taken away the group, or the job
	noJob      bool
	function   func(event map[string]any) any
	fakeThings
	fakeOwnJobs
}

type fakeExecution struct {
	status string
	number int64
}

const fakeARN = "arn:aws-cn:iot:cn-north-1:123456789012:"

func newFake() *fakeIoT {
	return &fakeIoT{
		page: 2, executions: map[string]*fakeExecution{}, principals: map[string][]string{}, pems: map[string]string{},
		status: map[string]string{}, former: map[string]bool{},
	}
}

// open serves the fake, and opens a world on it.
func (f *fakeIoT) open(t *testing.T, clock *backendtest.Clock, change ...func(*Config)) *World {
	t.Helper()
	server := httptest.NewServer(f.routes())
	t.Cleanup(server.Close)
	quotas, err := NewQuotas(1, everything(1e6), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := Dial(t.Context(), Account{
		Region: "cn-north-1", Endpoint: server.URL, HTTP: server.Client(), Quotas: quotas, Backoff: time.Millisecond,
		Credentials: credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "secret", ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	config := testConfig("fake", clients, clock.Now, t.TempDir())
	config.Pace = Pace{PerMinute: 6000, MaxInFlight: 500}
	config.Issuer = given(softwareCA(t, clock.Now))
	for _, fn := range change {
		fn(&config)
	}
	return openWorld(t, config)
}

func (f *fakeIoT) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, do func(*http.Request, map[string]any) (int, any)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.calls = append(f.calls, r.Method+" "+r.URL.EscapedPath())
			if f.onCall != nil {
				f.onCall(len(f.calls))
			}
			body := map[string]any{}
			if text, err := io.ReadAll(r.Body); err == nil && len(text) > 0 {
				_ = json.Unmarshal(text, &body)
			}
			status, reply := http.StatusBadRequest, any("ThrottlingException")
			switch {
			case f.throttle > 0:
				f.throttle--
			case f.meter.lets(apiOf[r.Pattern]):
				status, reply = do(r, body)
			}
			if code, failed := reply.(string); failed {
				w.Header().Set("X-Amzn-ErrorType", code)
				reply = map[string]string{"message": "as the fake has it"}
			}
			if failed, _ := reply.(map[string]any); failed["errorMessage"] != nil {
				w.Header().Set("X-Amz-Function-Error", "Unhandled")
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(reply)
		})
	}
	none := map[string]any{}
	mux.HandleFunc("POST /{$}", f.post)
	f.handleThings(handle)
	handle("GET /things/{thing}", func(r *http.Request, _ map[string]any) (int, any) {
		return 200, map[string]any{"thingName": r.PathValue("thing"), "attributes": map[string]string{}}
	})
	handle("GET /thing-groups/{group}", func(r *http.Request, _ map[string]any) (int, any) {
		if group := r.PathValue("group"); group != "rotate" && f.groups[group] == nil || group == "rotate" && f.noGroup {
			return 404, notFound
		}
		return 200, none
	})
	f.ownJobs(handle)
	handle("GET /thing-groups/{group}/things", func(r *http.Request, _ map[string]any) (int, any) {
		if f.noGroup {
			return 404, notFound
		}
		page, next := f.paged(r, "nextToken", f.group)
		return 200, map[string]any{"things": page, "nextToken": next}
	})
	handle("GET /things/{thing}/thing-groups", func(r *http.Request, _ map[string]any) (int, any) {
		page, next := f.paged(r, "nextToken", groupNames(f.others[r.PathValue("thing")]))
		var all []map[string]any
		for _, group := range page {
			all = append(all, map[string]any{"groupName": group})
		}
		return 200, map[string]any{"thingGroups": all, "nextToken": next}
	})
	handle("PUT /thing-groups/addThingToThingGroup", func(_ *http.Request, body map[string]any) (int, any) {
		if f.others[body["thingName"].(string)] >= mostGroups {
			return 400, invalidRequest
		}
		if f.noGroup && body["thingGroupName"] == "rotate" {
			return 404, notFound
		}
		f.addTo(body["thingGroupName"].(string), body["thingName"].(string))
		return 200, none
	})
	handle("PUT /thing-groups/removeThingFromThingGroup", func(_ *http.Request, body map[string]any) (int, any) {
		f.removeFrom(body["thingGroupName"].(string), body["thingName"].(string))
		return 200, none
	})
	handle("PUT /jobs/{job}", func(r *http.Request, body map[string]any) (int, any) {
		if f.isOwn(r.PathValue("job"), body) {
			return 200, none
		}
		f.former[f.jobID] = true
		f.job, f.jobID, f.jobStatus, f.noJob = body, r.PathValue("job"), "IN_PROGRESS", false
		return 200, none
	})
	handle("GET /jobs/{job}", func(r *http.Request, _ map[string]any) (int, any) {
		if own := f.owns[r.PathValue("job")]; own != nil {
			return 200, map[string]any{"job": map[string]any{"jobId": r.PathValue("job"), "status": own.status}}
		}
		switch id := r.PathValue("job"); {
		case id == f.jobID && !f.noJob:
			return 200, map[string]any{"job": map[string]any{
				"jobId": id, "status": f.jobStatus,
				"timeoutConfig": f.job["timeoutConfig"], "jobExecutionsRolloutConfig": f.job["jobExecutionsRolloutConfig"],
			}}
		case f.former[id] && id != f.jobID:
			return 200, map[string]any{"job": map[string]any{"jobId": id, "status": "CANCELED"}}
		}
		return 404, notFound
	})
	handle("PATCH /jobs/{job}", func(_ *http.Request, body map[string]any) (int, any) {
		maps.Copy(f.job, body)
		return 200, none
	})
	handle("GET /jobs/{job}/things", func(r *http.Request, _ map[string]any) (int, any) {
		if f.noJob {
			return 404, notFound
		}
		page, next := f.paged(r, "nextToken", f.inState(r.PathValue("job"), r.URL.Query().Get("status")))
		var all []map[string]any
		for _, thing := range page {
			all = append(all, map[string]any{"thingArn": fakeARN + "thing/" + thing})
		}
		return 200, map[string]any{"executionSummaries": all, "nextToken": next}
	})
	handle("GET /things/{thing}/jobs/{job}", func(r *http.Request, _ map[string]any) (int, any) {
		e := f.executionsOf(r.PathValue("job"))[r.PathValue("thing")]
		if e == nil {
			return 404, notFound
		}
		return 200, map[string]any{"execution": map[string]any{
			"jobId": r.PathValue("job"), "status": e.status, "executionNumber": e.number,
			"statusDetails": map[string]any{"detailsMap": map[string]string{"why": "the fake"}},
		}}
	})
	handle("DELETE /things/{thing}/jobs/{job}/executionNumber/{number}", func(r *http.Request, _ map[string]any) (int, any) {
		delete(f.executions, r.PathValue("thing"))
		return 200, none
	})
	handle("GET /things/{thing}/principals-v2", func(r *http.Request, _ map[string]any) (int, any) {
		page, next := f.paged(r, "nextToken", f.principals[r.PathValue("thing")])
		var all []map[string]any
		for _, p := range page {
			all = append(all, map[string]any{"principal": p, "thingPrincipalType": cmp.Or(f.attachments[p], f.attachment, "EXCLUSIVE_THING")})
		}
		return 200, map[string]any{"thingPrincipalObjects": all, "nextToken": next}
	})
	f.lists(handle)
	handle("POST /2015-03-31/functions/{name}/invocations", f.invoke)
	handle("GET /certificates/{id}", func(r *http.Request, _ map[string]any) (int, any) {
		if f.pems[r.PathValue("id")] == "" || f.statusOf(r.PathValue("id")) == deleted {
			return 404, notFound
		}
		return 200, map[string]any{"certificateDescription": map[string]any{
			"certificateId": r.PathValue("id"), "certificatePem": f.pems[r.PathValue("id")], "status": f.statusOf(r.PathValue("id")),
			"creationDate": 1.7e9,
		}}
	})
	handle("POST /attached-policies/{target}", func(r *http.Request, _ map[string]any) (int, any) {
		page, next := f.paged(r, "marker", f.policiesOf(r.PathValue("target")))
		var all []map[string]any
		for _, p := range page {
			all = append(all, map[string]any{"policyName": p})
		}
		return 200, map[string]any{"policies": all, "nextMarker": next}
	})
	return mux
}

// lists are what a sync of the inventory reads.
func (f *fakeIoT) lists(handle func(string, func(*http.Request, map[string]any) (int, any))) {
	handle("GET /certificates", func(r *http.Request, _ map[string]any) (int, any) {
		page, next := f.paged(r, "marker", slices.Sorted(maps.Keys(f.pems)))
		var all []map[string]any
		for _, id := range page {
			if f.statusOf(id) != deleted {
				all = append(all, map[string]any{"certificateId": id, "status": f.statusOf(id)})
			}
		}
		return 200, map[string]any{"certificates": all, "nextMarker": next}
	})
	handle("GET /things", func(r *http.Request, _ map[string]any) (int, any) {
		page, next := f.paged(r, "nextToken", f.things)
		var all []map[string]any
		for _, thing := range page {
			all = append(all, map[string]any{"thingName": thing, "attributes": map[string]string{"site": "here"}})
		}
		return 200, map[string]any{"things": all, "nextToken": next}
	})
	handle("POST /indices/search", func(r *http.Request, body map[string]any) (int, any) {
		var all []map[string]any
		for _, thing := range f.things {
			if want, _ := body["queryString"].(string); want == "thingName:*" || want == "thingName:"+thing {
				all = append(all, map[string]any{"thingName": thing, "thingGroupNames": groupNames(f.others[thing])})
			}
		}
		return 200, map[string]any{"things": all}
	})
	handle("POST /audit/findings", func(r *http.Request, body map[string]any) (int, any) {
		page, next := f.findings, any(nil)
		if token, _ := body["nextToken"].(string); token == "" && len(page) > 1 {
			page, next = page[:1], "1"
		} else if token != "" {
			page = page[1:]
		}
		all := []map[string]any{{"nonCompliantResource": map[string]any{"resourceType": "CA_CERTIFICATE"}}}
		for _, id := range page {
			all = append(all, map[string]any{"checkName": "DEVICE_CERTIFICATE_EXPIRING_CHECK", "nonCompliantResource": map[string]any{
				"resourceType": "DEVICE_CERTIFICATE", "resourceIdentifier": map[string]any{"deviceCertificateId": id},
			}})
		}
		return 200, map[string]any{"findings": all, "nextToken": next}
	})
}

func groupNames(n int) []string {
	var groups []string
	for i := range n {
		groups = append(groups, fmt.Sprintf("group-%d", i))
	}
	return groups
}

func (f *fakeIoT) statusOf(id string) string {
	if status, set := f.status[id]; set {
		return status
	}
	return "ACTIVE"
}

// paged returns a page and the token of the next; no token is none.
func (f *fakeIoT) paged(r *http.Request, token string, all []string) ([]string, any) {
	from, _ := strconv.Atoi(r.URL.Query().Get(token))
	to := min(from+f.page, len(all))
	if to == len(all) {
		return all[from:to], nil
	}
	return all[from:to], strconv.Itoa(to)
}

func (f *fakeIoT) inState(job, status string) []string {
	var all []string
	for thing, e := range f.executionsOf(job) {
		if e.status == status {
			all = append(all, thing)
		}
	}
	slices.Sort(all)
	return all
}

// add gives a thing its execution of the job, unless it has one.
func (f *fakeIoT) add(thing string) {
	if !slices.Contains(f.group, thing) {
		f.group = append(f.group, thing)
	}
	if f.executions[thing] == nil {
		f.executions[thing] = &fakeExecution{"QUEUED", 1}
	}
}

func (f *fakeIoT) remove(thing string) {
	f.group = slices.DeleteFunc(f.group, func(t string) bool { return t == thing })
	if e := f.executions[thing]; e != nil && (e.status == "QUEUED" || e.status == "IN_PROGRESS") {
		e.status = "REMOVED"
	}
}

// set changes how an execution stands.
func (f *fakeIoT) set(thing, status string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.executions[thing].status = status
}

// called returns the calls since the last time it was asked.
func (f *fakeIoT) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}
