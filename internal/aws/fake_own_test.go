package aws

import (
	"net/http"
	"slices"
)

// fakeOwnJobs are the thing groups and jobs of a fakeIoT besides its first.
type fakeOwnJobs struct {
	groups map[string][]string // their things
	owns   map[string]*fakeOwn // by the job's id
}

type fakeOwn struct {
	group, status, document string
	executions              map[string]*fakeExecution
}

func (f *fakeIoT) ownJobs(handle func(string, func(*http.Request, map[string]any) (int, any))) {
	f.groups, f.owns = map[string][]string{}, map[string]*fakeOwn{}
	none := map[string]any{}
	handle("POST /thing-groups/{group}", func(r *http.Request, _ map[string]any) (int, any) {
		if f.groups[r.PathValue("group")] = []string{}; r.PathValue("group") == "rotate" {
			f.noGroup = false
		}
		return 200, none
	})
	handle("DELETE /thing-groups/{group}", func(r *http.Request, _ map[string]any) (int, any) {
		delete(f.groups, r.PathValue("group"))
		return 200, none
	})
	handle("PUT /jobs/{job}/cancel", func(r *http.Request, _ map[string]any) (int, any) {
		f.cancelJob(r.PathValue("job"))
		return 200, none
	})
}

// isOwn takes a job whose target is another group than the first.
func (f *fakeIoT) isOwn(id string, body map[string]any) bool {
	target := body["targets"].([]any)[0].(string)[len(fakeARN+"thinggroup/"):]
	if target == "rotate" {
		return false
	}
	own := &fakeOwn{group: target, status: "IN_PROGRESS", document: body["document"].(string), executions: map[string]*fakeExecution{}}
	f.owns[id] = own
	for _, thing := range f.groups[target] {
		own.executions[thing] = &fakeExecution{"QUEUED", 1}
	}
	return true
}

func (f *fakeIoT) executionsOf(job string) map[string]*fakeExecution {
	if own := f.owns[job]; own != nil {
		return own.executions
	}
	return f.executions
}

// addTo gives a thing the jobs of a group, each once, however often it comes.
func (f *fakeIoT) addTo(group, thing string) {
	if group == "rotate" {
		f.add(thing)
		return
	}
	if !slices.Contains(f.groups[group], thing) {
		f.groups[group] = append(f.groups[group], thing)
	}
	for _, own := range f.owns {
		if own.group == group && own.status == "IN_PROGRESS" && own.executions[thing] == nil {
			own.executions[thing] = &fakeExecution{"QUEUED", 1}
		}
	}
}

func (f *fakeIoT) removeFrom(group, thing string) {
	if group == "rotate" {
		f.remove(thing)
		return
	}
	if f.groups[group] == nil {
		return // as if it had answered that there is none
	}
	f.groups[group] = slices.DeleteFunc(f.groups[group], func(t string) bool { return t == thing })
	for _, own := range f.owns {
		if e := own.executions[thing]; own.group == group && e != nil && (e.status == "QUEUED" || e.status == "IN_PROGRESS") {
			e.status = "REMOVED"
		}
	}
}

func (f *fakeIoT) cancelJob(id string) {
	own := f.owns[id]
	if own == nil {
		f.jobStatus = "CANCELED"
		return
	}
	own.status = "CANCELED"
	for _, e := range own.executions {
		if e.status == "QUEUED" {
			e.status = "CANCELED"
		}
	}
}

// openOf returns how many executions of a thing there are that have not ended, of
// whichever job.
func (f *fakeIoT) openOf(thing string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	count := func(e *fakeExecution) {
		if e != nil && (e.status == "QUEUED" || e.status == "IN_PROGRESS") {
			n++
		}
	}
	count(f.executions[thing])
	for _, own := range f.owns {
		count(own.executions[thing])
	}
	return n
}
