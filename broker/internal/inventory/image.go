package inventory

import (
	"context"
	"errors"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Images lists every image by name.
func (s *Service) Images(ctx context.Context, p tenant.Principal) ([]api.Image, error) {
	var out []api.Image
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		rows, err := store.In[store.Image](t).List(store.Asc("name"))
		if err != nil {
			return err
		}
		out = make([]api.Image, 0, len(rows))
		for _, r := range rows {
			i, err := imageView(t, r)
			if err != nil {
				return err
			}
			out = append(out, i)
		}
		return nil
	})
	return out, err
}

// Image returns one image.
func (s *Service) Image(ctx context.Context, p tenant.Principal, id string) (api.Image, error) {
	var out api.Image
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := store.In[store.Image](t).Get(id)
		if err != nil {
			return noImage(err)
		}
		out, err = imageView(t, r)
		return err
	})
	return out, err
}

// RenameImage changes an image's name and description.
func (s *Service) RenameImage(ctx context.Context, p tenant.Principal, id string, in api.ImageWrite) (api.Image, error) {
	f := faults{}
	f.text("name", strings.TrimSpace(in.Name), 1, maxName)
	f.text("description", strings.ReplaceAll(in.Description, "\n", " "), 0, 1024)
	if err := f.err(); err != nil {
		return api.Image{}, err
	}
	var out api.Image
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := store.In[store.Image](t).Get(id)
		if err != nil {
			return noImage(err)
		}
		r.Name, r.Description = strings.TrimSpace(in.Name), in.Description
		if err := store.In[store.Image](t).Update(&r); err != nil {
			return err
		}
		s.publish(t, feed.TopicImages, feed.TopicKeyRequests)
		if err := audit.Append(t, audit.Entry{Category: "user", Event: "image.changed", Actor: p.Actor(), Subject: id,
			Detail: map[string]string{"name": r.Name}}); err != nil {
			return err
		}
		out, err = imageView(t, r)
		return err
	})
	return out, err
}

func imageView(t *store.Tenant, r store.Image) (api.Image, error) {
	out := api.Image{ID: r.ID, Identity: r.Identity, Provider: r.Provider, Name: r.Name, Description: r.Description, PolicyIDs: []string{},
		CertificateExpiresAt: r.CertExpiresAt}
	in, err := store.In[store.PolicyImage](t).List(store.Eq("image_id", r.ID))
	if err != nil {
		return out, err
	}
	for _, m := range in {
		out.PolicyIDs = append(out.PolicyIDs, m.PolicyID)
	}
	out.Instances, err = store.In[store.Instance](t).Count(store.Eq("image_id", r.ID))
	return out, err
}

func noImage(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound("image")
	}
	return err
}
