package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Bounds of a request's body, in octets.
const (
	maxBody    = 512 << 10
	maxPackage = 1 << 20
)

// batch is how many names one request may carry, and how many entries a page
// of a list has.
const batch = 1000

// Server answers operators on a Unix socket, and over TCP where that is wanted.
type Server struct {
	Ports
	remote    Remote
	listeners []net.Listener // the socket, then TCP
	http      *http.Server
	// adding lets one device after another have its first certificate, so
	// that two who add the same device do not both find it without one.
	adding sync.Mutex
	// applying lets one campaign after another be made, so that no device is in
	// two.
	applying sync.Mutex
	// profiling lets one profile be taken at a time: what they switch on is the
	// whole process's.
	profiling sync.Mutex
}

// Open makes the socket, and listens on TCP where remote says so. Nobody is
// answered before Serve; Shutdown gives both back, whether Serve was called or
// not.
func Open(ctx context.Context, socket Socket, remote Remote, ports Ports) (*Server, error) {
	listener, err := socket.listen(ctx)
	if err != nil {
		return nil, err
	}
	s := &Server{Ports: ports, remote: remote, listeners: []net.Listener{listener}}
	if remote.Listen != "" {
		listener, err := remote.listen(ctx)
		if err != nil {
			return nil, errors.Join(err, s.listeners[0].Close())
		}
		s.listeners = append(s.listeners, listener)
	}
	s.http = &http.Server{
		Handler: s.guard(s.routes()), ConnContext: withPeer,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(withoutStrangers{}, "", 0),
	}
	return s, nil
}

// Addr returns where operators are answered over TCP, or nil.
func (s *Server) Addr() net.Addr {
	if len(s.listeners) < 2 {
		return nil
	}
	return s.listeners[1].Addr()
}

// Serve answers until Shutdown, and then returns nil.
func (s *Server) Serve() error {
	var serving errgroup.Group
	for _, listener := range s.listeners {
		serving.Go(func() error {
			err := s.http.Serve(listener)
			if errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return errors.Join(fmt.Errorf("control: %w", err), s.http.Close())
		})
	}
	return serving.Wait()
}

// Shutdown takes no more requests, waits for those at work until ctx ends, and
// removes the socket. Repeatable.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	for _, listener := range s.listeners {
		if closed := listener.Close(); !errors.Is(closed, net.ErrClosed) {
			err = errors.Join(err, closed)
		}
	}
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

// answer handles one request: what it returns becomes the reply's JSON, and a
// part what send makes of it.
type answer func(*http.Request) (any, error)

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc(backupRoute, s.backup)
	for pattern, a := range s.answers() {
		a = s.observed(pattern, a)
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxBodyOf(r))
			reply(w, r, a)
		})
	}
	return mux
}

// backupRoute is the one whose answer is no JSON.
const backupRoute = "POST /v1/backup"

// answers are the routes, whose roles stand in needs.
func (s *Server) answers() map[string]answer {
	return map[string]answer{
		"GET /v1/ready":                   s.ready,
		"POST /v1/devices":                s.addDevice,
		"POST /v1/devices/adopt":          s.adoptDevice,
		"GET /v1/devices":                 s.listDevices,
		"GET /v1/devices/{name}":          s.showDevice,
		"GET /v1/devices/{name}/explain":  s.explainDevice,
		"DELETE /v1/devices/{name}":       s.removeDevice,
		"POST /v1/devices/{name}/block":   s.block(true),
		"POST /v1/devices/{name}/unblock": s.block(false),
		"GET /v1/fleet":                   s.listFleet,
		"GET /v1/survey":                  s.survey,
		"GET /v1/inventory":               s.showSync,
		"POST /v1/inventory/sync":         s.beginSync,
		"POST /v1/inventory/names":        s.nameForSync,
		"POST /v1/inventory/stop":         s.stopSync,
		"POST /v1/inventory/look/{name}":  s.lookAtThing,
		"GET /v1/certificates":            s.listCertificates,
		"GET /v1/certificates/{id}":       s.showCertificate,
		"POST /v1/members":                s.join,
		"POST /v1/members/remove":         s.leave,
		"GET /v1/members":                 s.listMembers,
		"POST /v1/rotations/retry":        s.retry,
		"POST /v1/rotations/abandon":      s.abandon,
		"POST /v1/rotations/undo":         s.undo,
		"GET /v1/rotations":               s.listRotations,
		"GET /v1/stuck":                   s.listStuck,
		"GET /v1/status":                  s.status,
		"POST /v1/sweep":                  s.sweep,
		"POST /v1/packages/{name}":        s.createPackage,
		"PUT /v1/packages/{name}":         s.putPackage,
		"GET /v1/packages":                s.listPackages,
		"POST /v1/job":                    s.ensureJob,
		"GET /v1/job":                     s.showJob,
		"POST /v1/jobs/{id}/cancel":       s.cancelJob,
		"GET /v1/ca":                      s.listCAs,
		"POST /v1/ca/crl":                 s.signCRL,
		"POST /v1/ca/rotate":              s.rotateCA,
		"POST /v1/ca/csr":                 s.requestCA,
		"POST /v1/ca/import":              s.importCA,
		"POST /v1/ca/retire":              s.retireCA,
		"POST /v1/ca/server/prepare":      s.prepareServerCA,
		"POST /v1/ca/server/use":          s.useServerCA,
		"POST /v1/ca/server/abandon":      s.abandonServerCA,
		"GET /v1/ca/server/missing":       s.listMissing,
		"POST /v1/certificates/revoke":    s.revoke,
		"GET /v1/frozen":                  s.showFrozen,
		"POST /v1/freeze":                 s.freeze,
		"POST /v1/thaw":                   s.thaw,
		"POST /v1/audit/verify":           s.verifyAudit,
		"POST /v1/profile":                s.profile,

		"POST /v1/campaigns/plan":          s.planCampaign,
		"POST /v1/campaigns":               s.applyCampaign,
		"GET /v1/campaigns":                s.listCampaigns,
		"GET /v1/campaigns/{name}":         s.showCampaign,
		"GET /v1/campaigns/{name}/members": s.listCampaignMembers,
		"POST /v1/campaigns/{name}/pause":  s.steer("pause", pauseCampaign),
		"POST /v1/campaigns/{name}/resume": s.steer("resume", resumeCampaign),
		"POST /v1/campaigns/{name}/cancel": s.steer("cancel", cancelCampaign),
	}
}

func maxBodyOf(r *http.Request) int64 {
	switch {
	case r.Method == http.MethodPut:
		return maxPackage
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v1/campaigns"):
		return maxSpec
	}
	return maxBody
}

// failure is the JSON of a refused request.
type failure struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, r *http.Request, a answer) {
	body, err := a(r)
	status := http.StatusOK
	if err != nil {
		status, body = statusOf(err), failure{err.Error()}
	}
	if p, ok := body.(interface{ send(http.ResponseWriter) }); ok {
		p.send(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // whoever asked has gone
}

// refusal is an error that says what to do, with its HTTP status.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// refuseOther refuses a name that is none of those there are.
func refuseOther[T ~string](what string, given T, those []T) error {
	names := make([]string, len(those))
	for i, name := range those {
		names[i] = string(name)
	}
	return refuse(http.StatusBadRequest, "%s %.40q: is none of %s", what, given, strings.Join(names, ", "))
}

func statusOf(err error) int {
	var r *refusal
	var tooLarge *http.MaxBytesError
	var refused CARefused
	switch {
	case errors.As(err, &r):
		return r.status
	case errors.As(err, &refused):
		return http.StatusConflict
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, registry.ErrUnknown), errors.Is(err, certificate.ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, certificate.ErrRequest):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

// read decodes a request's body: one JSON value, no member that is not known.
func read(r *http.Request, into any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return badBody(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "something follows the request's JSON")
	}
	return nil
}

func badBody(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return refuse(http.StatusBadRequest, "the request is not readable: %v", err)
}

// device reads a device's name from the path, and looks the device up.
func (s *Server) device(ctx context.Context, name string) (registry.Device, error) {
	id, err := registry.ParseDeviceID(name)
	if err != nil {
		return registry.Device{}, refuse(http.StatusBadRequest, "%v", err)
	}
	d, err := s.Registry.Device(ctx, id)
	if errors.Is(err, registry.ErrUnknown) {
		return d, s.unknown(ctx, id)
	}
	return d, err
}

// unknown says of a device that is not in the registry how it gets in.
func (s *Server) unknown(ctx context.Context, id registry.DeviceID) error {
	enter, err := s.enterCommand(ctx, id)
	if err != nil {
		return err
	}
	return refuse(http.StatusNotFound, "device %s is not known: `%s` enters it", id, enter)
}

// enterCommand is what to type to enter a device, which may have been removed
// and hold certificates from before.
func (s *Server) enterCommand(ctx context.Context, id registry.DeviceID) (string, error) {
	held, err := s.Inventory.Held(ctx, id)
	if err != nil {
		return "", err
	}
	command := fmt.Sprintf("certvendor device add %s --out DIR", id)
	if _, ok := works(held, s.Now()); ok {
		command += " --another"
	}
	return command, nil
}

// note writes into the audit who is about to do what.
func (s *Server) note(ctx context.Context, e Event) error {
	if e.Detail == nil {
		e.Detail = map[string]string{}
	}
	e.Kind, e.Detail["who"] = "operator."+e.Kind, peer(ctx)
	return s.Note(ctx, e)
}

func (s *Server) ready(r *http.Request) (any, error) {
	if err := s.Ready(r.Context()); err != nil {
		return nil, refuse(http.StatusServiceUnavailable, "not ready: %v", err)
	}
	return struct{}{}, nil
}
