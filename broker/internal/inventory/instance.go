package inventory

import (
	"context"
	"errors"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// InstanceQuery selects machines. Empty members select everything.
type InstanceQuery struct{ Image string }

// Instances lists enrolled machines by host name, without their devices.
func (s *Service) Instances(ctx context.Context, p tenant.Principal, q InstanceQuery) ([]api.Instance, error) {
	var out []api.Instance
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		// Without evidence, which is large.
		filters := []store.Filter{store.Asc("host_name"), store.Only("id", "identity", "provider", "host_name", "location", "image_id",
			"agent_version", "first_seen_at", "last_seen_at", "source_ip", "missing", "suspicion", "suspected_at",
			"cert_expires_at", "revoked_at", "key_conflict", "from_image", "tpm", "cloud_identity")}
		if q.Image != "" {
			filters = append(filters, store.Eq("image_id", q.Image))
		}
		rows, err := store.In[store.Instance](t).List(filters...)
		if err != nil {
			return err
		}
		images, err := imageNames(t)
		if err != nil {
			return err
		}
		out = make([]api.Instance, 0, len(rows))
		for _, r := range rows {
			out = append(out, instanceView(r, images))
		}
		return nil
	})
	return out, err
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
		images, err := imageNames(t)
		if err != nil {
			return err
		}
		out = instanceView(r, images)
		all, err := everything(t)
		if err != nil {
			return err
		}
		for _, d := range all {
			if d.InstanceID == id {
				out.Devices = append(out.Devices, d)
			}
		}
		return nil
	})
	return out, err
}

func imageNames(t *store.Tenant) (map[string]string, error) {
	rows, err := store.In[store.Image](t).List(store.Only("id", "name"))
	names := make(map[string]string, len(rows))
	for _, r := range rows {
		names[r.ID] = r.Name
	}
	return names, err
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
