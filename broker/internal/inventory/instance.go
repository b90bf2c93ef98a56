package inventory

import (
	"context"
	"errors"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// InstanceQuery selects machines. Empty members select everything; Page counts from 1, and a Size of 0 returns all.
type InstanceQuery struct {
	Image string
	// Search is found in host name or identity, whatever the case of ASCII letters.
	Search     string
	Page, Size int
}

func (q InstanceQuery) where() []store.Filter {
	var out []store.Filter
	if q.Image != "" {
		out = append(out, store.Eq("image_id", q.Image))
	}
	if q.Search != "" {
		out = append(out, store.AnyLike([]string{"host_name", "identity"}, q.Search))
	}
	return out
}

// Instances lists enrolled machines by host name, without their devices, and counts all that match.
func (s *Service) Instances(ctx context.Context, p tenant.Principal, q InstanceQuery) ([]api.Instance, int64, error) {
	var out []api.Instance
	var total int64
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		machines := store.In[store.Instance](t)
		var err error
		if total, err = machines.Count(q.where()...); err != nil {
			return err
		}
		// Without evidence, which is large.
		filters := append(q.where(), store.Asc("host_name"), store.Only("id", "identity", "provider", "host_name", "location", "image_id",
			"agent_version", "first_seen_at", "last_seen_at", "source_ip", "missing", "suspicion", "suspected_at",
			"cert_expires_at", "revoked_at", "key_conflict", "from_image", "tpm", "cloud_identity"))
		if q.Size > 0 {
			filters = append(filters, store.Offset((min(max(q.Page, 1), maxPage)-1)*q.Size), store.Limit(q.Size))
		}
		rows, err := machines.List(filters...)
		if err != nil {
			return err
		}
		images, err := imageNames(t, rows)
		if err != nil {
			return err
		}
		out = make([]api.Instance, 0, len(rows))
		for _, r := range rows {
			out = append(out, instanceView(r, images))
		}
		return nil
	})
	return out, total, err
}

// Instance returns one machine with its devices.
func (s *Service) Instance(ctx context.Context, p tenant.Principal, id string) (api.Instance, error) {
	var out api.Instance
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := store.In[store.Instance](t).Get(id)
		if errors.Is(err, store.ErrNotFound) {
			return problem.NotFound("instance")
		}
		if err != nil {
			return err
		}
		images, err := imageNames(t, []store.Instance{r})
		if err != nil {
			return err
		}
		out = instanceView(r, images)
		rows, err := store.In[store.Device](t).List(store.Eq("instance_id", id))
		if err != nil {
			return err
		}
		if out.Devices, err = views(t, rows); err != nil {
			return err
		}
		sets, err := matchingSets(t, DeviceQuery{Instance: id})
		out.Devices = append(out.Devices, sets...)
		return err
	})
	return out, err
}

// imageNames are the names of the images of some machines.
func imageNames(t *store.Tenant, machines []store.Instance) (map[string]string, error) {
	names := map[string]string{}
	for _, m := range machines {
		names[m.ImageID] = ""
	}
	for ids := range slices.Chunk(keysIn(names), someIDs) {
		rows, err := store.In[store.Image](t).List(store.OneOf("id", ids), store.Only("id", "name"))
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			names[r.ID] = r.Name
		}
	}
	return names, nil
}

func instanceView(r store.Instance, images map[string]string) api.Instance {
	out := api.Instance{ID: r.ID, Identity: r.Identity, Provider: r.Provider, HostName: r.HostName, Location: r.Location,
		ImageID: r.ImageID, ImageName: images[r.ImageID], AgentVersion: r.AgentVersion, FirstSeenAt: r.FirstSeenAt,
		LastSeenAt: r.LastSeenAt, SourceIP: r.SourceIP, Missing: r.Missing, Suspicion: r.Suspicion, SuspectedAt: r.SuspectedAt, FromImage: r.FromImage,
		CertificateRevokedAt: r.RevokedAt, KeyConflict: r.KeyConflict}
	out.CloudIdentity = r.CloudIdentity
	if r.TPM != nil {
		out.TPM = &r.TPM.TPMInfo
	}
	if r.RevokedAt == nil {
		out.CertificateExpiresAt = &r.CertExpiresAt
	}
	return out
}
