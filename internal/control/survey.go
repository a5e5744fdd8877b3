package control

import (
	"context"
	"net/http"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Survey is what is out there. A part of it is of the same form: parts add up.
type Survey struct {
	Devices      int               `json:"devices"`
	Certificates int               `json:"certificates"` // ACTIVE, and held by a device of the registry
	Expiries     map[string]int    `json:"expiries"`     // of these, by month, as 2027-03
	Policies     map[string]int    `json:"policies"`     // of these; "" is none
	Weak         Sample            `json:"weakKeys"`     // of these: device and kind of key
	Many         Sample            `json:"manyPolicies"` // of these: with more than ten: device and how many
	Shared       Sample            `json:"shared"`       // of these: held by several devices
	Names        map[string]Sample `json:"commonNames"`  // of these, by whose name they bear; named are a device and the name
	Orphans      Sample            `json:"orphans"`      // ACTIVE, and held by none
	Removed      Sample            `json:"removed"`      // ACTIVE, and held only by who was taken out of the registry: device and certificate
	KeysReused   Sample            `json:"keysReused"`   // keys with several certificates of one device
	KeysShared   Sample            `json:"keysShared"`   // keys with certificates of several devices
	Without      Sample            `json:"without"`      // devices without an ACTIVE certificate
	Several      Sample            `json:"several"`      // devices with more than one
	CanRotate    int               `json:"canRotate"`    // devices from which a get with a new key would be accepted
	CanNot       map[string]Sample `json:"canNot"`       // the others, by why
}

// Sample is how many there are, and the first of them.
type Sample struct {
	Count int      `json:"count"`
	Names []string `json:"names,omitempty"` // at most sampled
}

// sampled is how many of a sample are named.
const sampled = 20

func (s *Sample) add(name string) { s.join(Sample{1, []string{name}}) }

func (s *Sample) join(more Sample) {
	s.Count += more.Count
	s.Names = append(s.Names, more.Names[:min(len(more.Names), sampled-len(s.Names))]...)
}

func newSurvey() Survey {
	return Survey{Expiries: map[string]int{}, Policies: map[string]int{}, Names: map[string]Sample{}, CanNot: map[string]Sample{}}
}

// add adds a part.
func (s *Survey) add(part Survey) {
	s.Devices += part.Devices
	s.Certificates += part.Certificates
	s.CanRotate += part.CanRotate
	for name, n := range part.Expiries {
		s.Expiries[name] += n
	}
	for name, n := range part.Policies {
		s.Policies[name] += n
	}
	for into, more := range map[*Sample]Sample{
		&s.Weak: part.Weak, &s.Many: part.Many, &s.Shared: part.Shared, &s.Orphans: part.Orphans, &s.Removed: part.Removed, &s.KeysReused: part.KeysReused,
		&s.KeysShared: part.KeysShared, &s.Without: part.Without, &s.Several: part.Several,
	} {
		into.join(more)
	}
	for name, more := range part.Names {
		addTo(s.Names, name, more)
	}
	for why, more := range part.CanNot {
		addTo(s.CanNot, why, more)
	}
}

func addTo(samples map[string]Sample, name string, more Sample) {
	sample := samples[name]
	sample.join(more)
	samples[name] = sample
}

// surveyPart is what was found in a page. After is where the next one begins;
// empty when there was nothing left to look at.
type surveyPart struct {
	After  string `json:"after,omitempty"`
	Survey Survey `json:"survey"`
}

// surveys are what a survey looks through, one after the other.
var surveys = []string{"certificates", "keys", "devices"}

// rehearsedAtOnce is how many devices, or keys, are looked at for a request:
// each takes several reads.
const rehearsedAtOnce = 200

// survey looks at a page of certificates, of keys or of devices. It changes
// nothing.
func (s *Server) survey(r *http.Request) (any, error) {
	part := surveyPart{Survey: newSurvey()}
	after := r.URL.Query().Get("after")
	var err error
	switch what := r.URL.Query().Get("what"); what {
	case "certificates":
		part.After, err = s.surveyCertificates(r.Context(), after, &part.Survey)
	case "keys":
		part.After, err = s.surveyKeys(r.Context(), after, &part.Survey)
	case "devices":
		part.After, err = s.surveyDevices(r.Context(), after, &part.Survey)
	default:
		err = refuseOther("survey of", what, surveys)
	}
	return part, err
}

func (s *Server) surveyKeys(ctx context.Context, after string, found *Survey) (next string, err error) {
	keys, err := s.RepeatedKeys(ctx, certificate.KeyID(after), rehearsedAtOnce)
	if err != nil || len(keys) == 0 {
		return "", err
	}
	for _, key := range keys {
		holdings, err := s.Certificates.List(ctx, certificate.Query{Key: key, Limit: batch})
		if err != nil {
			return "", err
		}
		devices := map[registry.DeviceID]bool{}
		for _, h := range holdings {
			if h.Device != "" {
				devices[h.Device] = true
			}
		}
		if len(devices) > 1 {
			found.KeysShared.add(string(key))
		} else {
			found.KeysReused.add(string(key))
		}
	}
	return string(keys[len(keys)-1]), nil
}
