package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// everyThing is the query of the fleet index that finds all.
const everyThing = "thingName:*"

// indexPage is how many things the fleet index is asked for at a time.
const indexPage = 100

// listIndex takes a page of what the fleet index finds: things with their
// attributes and the names of their groups.
func (s *Syncer) listIndex(ctx context.Context, state *SyncState) error {
	page, err := s.iot.SearchIndex(ctx, &iot.SearchIndexInput{
		QueryString: new(cmp.Or(state.Query, everyThing)), MaxResults: new(int32(indexPage)), NextToken: optional(state.Marker),
	})
	if err != nil {
		return s.lostPlace(ctx, state, "things", fmt.Errorf("query the fleet index: %w", err))
	}
	attributes := map[registry.DeviceID]map[string]string{}
	var wanted []store.Todo
	for _, thing := range page.Things {
		id, err := registry.ParseDeviceID(deref(thing.ThingName))
		if err != nil {
			continue
		}
		attributes[id] = thing.Attributes
		wanted = append(wanted, store.Todo{What: store.TodoDevice, Name: string(id)})
	}
	strange, err := s.meetAll(ctx, attributes)
	if err != nil {
		return err
	}
	for _, thing := range page.Things {
		err := s.group.crowded(ctx, registry.DeviceID(deref(thing.ThingName)), thing.ThingGroupNames)
		if err != nil && !errors.Is(err, errCrowded) {
			return err
		}
	}
	return s.sourced(ctx, state, wanted, func() {
		state.Listed["things"] += len(page.Things)
		state.Strange += strange
		state.Marker = deref(page.NextToken)
	})
}

// sourced notes a page of a source, then what done makes of the state: where the
// next one is. After the last it begins to read.
func (s *Syncer) sourced(ctx context.Context, state *SyncState, wanted []store.Todo, done func()) error {
	if err := s.note(state, func(at store.Position) error { return s.todo.Add(ctx, wanted, at) }); err != nil {
		return err
	}
	done()
	if state.Marker == "" {
		left, err := s.todo.Left(ctx)
		if err != nil {
			return err
		}
		state.Phase, state.Total = SyncReading, left[store.TodoCertificate]+left[store.TodoDevice]
	}
	return s.note(state, func(at store.Position) error { return s.todo.Add(ctx, nil, at) })
}

// windows are how far back findings are looked for: an audit runs every day at
// most and every month at least, and each finds again what the one before it
// found. AWS keeps them for 90 days.
var windows = []time.Duration{26 * time.Hour, 8 * 24 * time.Hour, 32 * 24 * time.Hour, 90 * 24 * time.Hour}

// listFindings takes all findings of the shortest window that has any: which
// certificates expire, are shared, have a weak key or are revoked.
func (s *Syncer) listFindings(ctx context.Context, state *SyncState) error {
	for _, window := range windows {
		ids, n, err := s.findings(ctx, state.Began.Add(-window), state.Began)
		if err != nil {
			return err
		}
		if n == 0 && window != windows[len(windows)-1] {
			continue
		}
		var wanted []store.Todo
		for id := range ids {
			wanted = append(wanted, store.Todo{What: store.TodoCertificate, Name: string(id)})
		}
		return s.sourced(ctx, state, wanted, func() { state.Listed["findings"] = n })
	}
	return nil
}

func (s *Syncer) findings(ctx context.Context, from, to time.Time) (ids map[certificate.ID]bool, n int, err error) {
	ids = map[certificate.ID]bool{}
	pages := iot.NewListAuditFindingsPaginator(s.iot, &iot.ListAuditFindingsInput{
		StartTime: &from, EndTime: &to, MaxResults: new(int32(listPage)),
	})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, 0, fmt.Errorf("list the findings of Device Defender: %w", err)
		}
		for _, f := range page.Findings {
			if f.NonCompliantResource == nil || f.NonCompliantResource.ResourceType != types.ResourceTypeDeviceCertificate ||
				f.NonCompliantResource.ResourceIdentifier == nil {
				continue
			}
			id, err := certificate.ParseID(deref(f.NonCompliantResource.ResourceIdentifier.DeviceCertificateId))
			if err == nil {
				ids[id] = true
				n++
			}
		}
	}
	return ids, n, nil
}
