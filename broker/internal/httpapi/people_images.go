package httpapi

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type imageList struct {
	Images []api.Image `json:"images"`
}

type imageChange struct {
	ByID
	Body api.ImageWrite
}

type instanceList struct {
	Instances []api.Instance `json:"instances"`
	Total     int64          `json:"total"`
}

type instanceQuery struct {
	api.Page
	Image  string `query:"image" maxLength:"64" doc:"only instances of this image"`
	Search string `query:"search" maxLength:"255" doc:"found in host name or identity"`
}

func registerImages(r *Router, d PeopleDeps) {
	registerIdentities(r, d)
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/images", Operation: rbac.ImagesRead, Summary: "List images"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[imageList], error) {
			list, err := d.Inventory.Images(ctx, p)
			return answerOf(imageList{list}, err)
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/images/{id}", Operation: rbac.ImagesRead, Summary: "Read an image"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.Image], error) {
			return answerOf(d.Inventory.Image(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/images/{id}", Operation: rbac.ImagesWrite, Summary: "Change an image's name and description"},
		func(ctx context.Context, p tenant.Principal, in *imageChange) (*answer[api.Image], error) {
			return answerOf(d.Inventory.RenameImage(ctx, p, in.ID, in.Body))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/instances", Operation: rbac.RunningInstancesRead, Summary: "List instances"},
		func(ctx context.Context, p tenant.Principal, in *instanceQuery) (*answer[instanceList], error) {
			list, total, err := d.Inventory.Instances(ctx, p, inventory.InstanceQuery{Image: in.Image, Search: in.Search, Page: in.Page.Page, Size: in.Size})
			return answerOf(instanceList{list, total}, err)
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/instances/{id}", Operation: rbac.RunningInstancesRead, Summary: "Read an instance with its devices"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.Instance], error) {
			return answerOf(d.Inventory.Instance(ctx, p, in.ID))
		})
}
