package control

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/certificate"
)

// caKeeper is an Authority of which tests decide what is in use.
type caKeeper struct {
	uses    CAUses
	counted int
	refuse  error
	retired certificate.ID
}

func (k *caKeeper) RotateCA(context.Context) (CA, error) { return CA{Role: "issuing"}, k.refuse }

func (k *caKeeper) RequestCA(_ context.Context, fresh bool) (string, error) {
	if fresh {
		return "new", nil
	}
	return "same", nil
}

func (k *caKeeper) ImportCA(_ context.Context, chain string) (CA, error) {
	return CA{Subject: chain}, nil
}

func (k *caKeeper) UsesOfCA(context.Context, certificate.ID) (CAUses, error) {
	k.counted++
	return k.uses, nil
}

func (k *caKeeper) RetireCA(_ context.Context, id certificate.ID, lose int) error {
	if k.uses.All() > lose {
		return CAInUse{k.uses}
	}
	k.retired = id
	return nil
}

// Who needs the roots alone has nothing counted over the whole fleet.
func TestRootsCountNothing(t *testing.T) {
	keeper := &caKeeper{}
	w := open(t, func(p *Ports) {
		p.Authority = keeper
		p.CAs = func() []CA { return []CA{{Role: "issuing", ID: certificate.IDOf([]byte("issuing"))}} }
	})
	all, roots, err := w.CAs(w.ctx)
	w.must(err)
	if len(all) != 1 || keeper.counted != 1 {
		t.Errorf("%d CAs, counted %d times", len(all), keeper.counted)
	}
	again, err := w.Roots(w.ctx)
	w.must(err)
	if again != roots || roots == "" || keeper.counted != 1 {
		t.Errorf("roots %q and %q, counted %d times", again, roots, keeper.counted)
	}
}

func TestRetireCA(t *testing.T) {
	issuing, former := certificate.IDOf([]byte("issuing")), certificate.IDOf([]byte("former"))
	keeper := &caKeeper{uses: CAUses{Certificates: 2, Birth: 1, Packages: 1}}
	w := open(t, func(p *Ports) {
		p.Authority = keeper
		p.CAs = func() []CA {
			return []CA{{Role: "root", ID: "0"}, {Role: "issuing", ID: issuing}, {Role: "former", ID: former, Subject: "CN=f"}}
		}
	})
	for name, c := range map[string]struct {
		asked CARetireRequest
		want  string
	}{
		"unknown":         {CARetireRequest{ID: strings.Repeat("0", 12)}, "is none of the issuing CAs"},
		"too short":       {CARetireRequest{ID: string(former[:11])}, "at least the first 12"},
		"the issuing one": {CARetireRequest{ID: string(issuing), Lose: 9}, "is the one that issues"},
		"in use":          {CARetireRequest{ID: string(former), Lose: 2}, "2 ACTIVE certificates of it are held, 1 of them a birth"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.RetireCA(w.ctx, c.asked)
			if err == nil || !strings.Contains(err.Error(), c.want) || keeper.retired != "" {
				t.Errorf("retired %q, %v", keeper.retired, err)
			}
		})
	}
	plan, err := w.RetireCA(w.ctx, CARetireRequest{ID: string(former[:12]), Plan: true})
	w.must(err)
	if plan.Done || plan.Uses != keeper.uses || plan.ID != former || keeper.retired != "" {
		t.Errorf("planned %+v", plan)
	}
	done, err := w.RetireCA(w.ctx, CARetireRequest{ID: string(former), Lose: 3})
	w.must(err)
	last := w.notes[len(w.notes)-1]
	if !done.Done || keeper.retired != former || last.Kind != "operator.ca_retire" || last.Detail["lose"] != "3" || last.Detail["who"] == "" {
		t.Errorf("done %+v, noted %+v", done, last)
	}
}

func TestChangeOfCAIsNoted(t *testing.T) {
	keeper := &caKeeper{refuse: CARefused{"the root's key is not here"}}
	w := open(t, func(p *Ports) { p.Authority = keeper })
	_, err := w.RotateCA(w.ctx)
	var refused *Error
	if !errors.As(err, &refused) || refused.Status != http.StatusConflict || refused.Text != "the root's key is not here" {
		t.Errorf("got %v", err)
	}
	text, err := w.RequestCA(w.ctx, true)
	w.must(err)
	imported, err := w.ImportCA(w.ctx, "chain")
	w.must(err)
	if text != "new" || imported.Subject != "chain" {
		t.Errorf("request %q, imported %+v", text, imported)
	}
	for i, kind := range []string{"operator.ca_rotate", "operator.ca_csr", "operator.ca_import"} {
		if w.notes[i].Kind != kind {
			t.Errorf("noted %+v", w.notes[i])
		}
	}
}
