package httpapi

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type raidInput struct{ Body api.RAIDSetWrite }

type raidChange struct {
	ByID
	Body api.RAIDSetWrite
}

type raidList struct {
	RAIDSets []api.Device `json:"raid_sets"`
}

func registerRAIDSets(r *Router, d PeopleDeps) {
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/raid-sets", Operation: rbac.RAIDSetsRead, Summary: "List RAID sets"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[raidList], error) {
			list, err := d.Inventory.RAIDSets(ctx, p)
			return answerOf(raidList{list}, err)
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/raid-sets", Operation: rbac.RAIDSetsWrite, Summary: "Make a RAID 0 set", Status: http.StatusCreated},
		func(ctx context.Context, p tenant.Principal, in *raidInput) (*answer[api.Device], error) {
			return answerOf(d.Inventory.CreateRAIDSet(ctx, p, in.Body))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/raid-sets/{id}", Operation: rbac.RAIDSetsRead, Summary: "Read a RAID set"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.Device], error) {
			return answerOf(d.Inventory.RAIDSet(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/raid-sets/{id}", Operation: rbac.RAIDSetsWrite, Summary: "Change a RAID set"},
		func(ctx context.Context, p tenant.Principal, in *raidChange) (*answer[api.Device], error) {
			if err := d.Inventory.UpdateRAIDSet(ctx, p, in.ID, in.Body); err != nil {
				return nil, err
			}
			return answerOf(d.Inventory.RAIDSet(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/raid-sets/{id}/unconfigure", Operation: rbac.DevicesUnconfigure, Summary: "Destroy the keys of a RAID set for ever"},
		func(ctx context.Context, p tenant.Principal, in *unconfigureInput) (*answer[api.Device], error) {
			if err := d.Inventory.UnconfigureRAIDSet(ctx, p, in.ID, in.Body); err != nil {
				return nil, err
			}
			return answerOf(d.Inventory.RAIDSet(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodDelete, Path: "/api/v1/raid-sets/{id}", Operation: rbac.RAIDSetsWrite, Summary: "Dissolve a RAID set"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*None, error) {
			return nil, d.Inventory.DeleteRAIDSet(ctx, p, in.ID)
		})
}
