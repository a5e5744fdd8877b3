package main

import "github.com/certvendor/certvendor/internal/app"

// setupReport is what `setup` prints.
type setupReport struct {
	Steps  []setupStep      `json:"steps"`
	Others []app.SetupOther `json:"others,omitempty"`
}

// setupStep is one resource, and whether it has become what it was to.
type setupStep struct {
	app.SetupStep
	Done bool `json:"done"`
}

func newSetupReport(steps []app.SetupStep) *setupReport {
	r := &setupReport{Steps: []setupStep{}}
	for _, s := range steps {
		r.Steps = append(r.Steps, setupStep{SetupStep: s})
	}
	return r
}

// changes reports whether the step changes anything.
func (s setupStep) changes() bool { return s.Do != app.SetupKeep && s.Do != app.SetupLeave }

// word says what becomes of it, or has become.
func (s setupStep) word() string {
	past := map[app.SetupDo]string{"create": "created", "update": "updated", "delete": "deleted"}
	switch {
	case s.Done:
		return past[s.Do]
	case s.Do == app.SetupKeep:
		return "there already"
	case s.Do == app.SetupLeave:
		return "stays"
	}
	return string(s.Do)
}

// done marks a step that was carried out.
func (r *setupReport) done(step app.SetupStep) {
	for i := range r.Steps {
		if r.Steps[i].Resource == step.Resource {
			r.Steps[i].Done = true
		}
	}
}

func (r *setupReport) toDo() int { return len(r.names()) }

// names are those of what is changed.
func (r *setupReport) names() []string {
	var all []string
	for _, s := range r.Steps {
		if s.changes() {
			all = append(all, s.Resource.String())
		}
	}
	return all
}
