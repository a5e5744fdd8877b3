package control

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/registry"
)

// serverKeeper is a Servers of which tests decide who is missing.
type serverKeeper struct {
	missing []registry.DeviceID
	used    bool
}

func (k *serverKeeper) PrepareServerCA(context.Context) (CA, error) {
	return CA{Role: "next-server-ca"}, nil
}

func (k *serverKeeper) UseServerCA(_ context.Context, cutOff int) (CA, error) {
	if len(k.missing) > cutOff {
		return CA{}, CutOff{len(k.missing)}
	}
	k.used = true
	return CA{Role: "server-ca"}, nil
}

func (k *serverKeeper) AbandonServerCA(context.Context) (CA, error) {
	return CA{Role: "next-server-ca"}, nil
}

func (k *serverKeeper) CountMissing(context.Context) (int, error) { return len(k.missing), nil }

func (k *serverKeeper) ListMissing(_ context.Context, after registry.DeviceID, limit int) ([]registry.DeviceID, error) {
	at := slices.IndexFunc(k.missing, func(id registry.DeviceID) bool { return id > after })
	if at < 0 {
		return nil, nil
	}
	return k.missing[at:min(at+limit, len(k.missing))], nil
}

func TestServerCA(t *testing.T) {
	keeper := &serverKeeper{missing: []registry.DeviceID{"a", "b"}}
	w := open(t, func(p *Ports) {
		p.Servers = keeper
		p.CAs = func() []CA { return []CA{{Role: "next-server-ca"}} }
	})
	_, err := w.PrepareServerCA(w.ctx)
	w.must(err)
	all, _, err := w.CAs(w.ctx)
	w.must(err)
	if all[0].Missing == nil || *all[0].Missing != 2 {
		t.Errorf("listed %+v", all)
	}
	var names []string
	for d, err := range w.MissingDevices(w.ctx) {
		w.must(err)
		names = append(names, d.Name)
	}
	if !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("missing %v", names)
	}
	var refused *Error
	_, err = w.UseServerCA(w.ctx, 1)
	if !errors.As(err, &refused) || refused.Status != http.StatusConflict || !strings.Contains(refused.Text, "--force 2") || keeper.used {
		t.Errorf("got %v", err)
	}
	if used, err := w.UseServerCA(w.ctx, 2); err != nil || used.Role != "server-ca" {
		t.Errorf("got %+v, %v", used, err)
	}
	if kind := w.notes[len(w.notes)-1]; kind.Kind != "operator.ca_server_use" || kind.Detail["cutOff"] != "2" {
		t.Errorf("noted %+v", kind)
	}
	if abandoned, err := w.AbandonServerCA(w.ctx); err != nil || abandoned.Role != "next-server-ca" {
		t.Errorf("got %+v, %v", abandoned, err)
	}
	if kind := w.notes[len(w.notes)-1]; kind.Kind != "operator.ca_server_abandon" {
		t.Errorf("noted %+v", kind)
	}
}
