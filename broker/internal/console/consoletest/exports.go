package consoletest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/console"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// exports are the Broker as the exports that several people agree on.
type exports Broker

var _ console.Exports = (*exports)(nil)

func (b *Broker) fillExports(ago func(time.Duration) time.Time) {
	b.people = 1
	b.recovery = &api.RecoveryKey{KeyID: "5f0e1d2c3b4a596877869504132231aa", Threshold: 2, Holders: []string{"Ada Lund", "Kim Sato", "Otto Brandt"}, CreatedAt: ago(40 * 24 * time.Hour), CreatedBy: "user:sven"}
	end := ago(-60 * time.Hour)
	counts := func(user string, d time.Duration) api.Approval {
		return api.Approval{UserID: "id-" + user, User: user, At: ago(d), ExpiresAt: ago(d - 24*time.Hour), Reason: "Known to me"}
	}
	b.exports = []api.KeyExport{
		{ID: "export-1", Kind: api.ExportDevices, Status: api.ExportWaiting, AskedBy: "sara", Reason: "An audit of the backup site, ticket 4711", PeopleNeeded: 3, Agreed: 2,
			Devices:   []api.KeyExportDevice{{ID: "device-1", Name: "pgdata", Generation: 1}, {ID: "device-2", Name: "pgdata-replica", Generation: 2, PendingGeneration: 3}},
			Approvals: []api.Approval{counts("noor", time.Hour)}, AskedAt: ago(2 * time.Hour), ExpiresAt: end, Version: 1},
		{ID: "export-2", Kind: api.ExportDevices, Status: api.ExportApproved, AskedBy: "sven", Reason: "The replica moves to another site", PeopleNeeded: 2, Agreed: 2, Own: true,
			Devices: []api.KeyExportDevice{{ID: "device-2", Name: "pgdata-replica", Generation: 2}}, Approvals: []api.Approval{counts("sara", 3*time.Hour)},
			AskedAt: ago(5 * time.Hour), ExpiresAt: end, Version: 2},
		{ID: "export-3", Kind: api.ExportDevices, Status: api.ExportExpired, AskedBy: "sara", Reason: "Trial", PeopleNeeded: 2, Agreed: 1,
			Devices: []api.KeyExportDevice{{ID: "device-1", Name: "pgdata", Generation: 1}}, AskedAt: ago(200 * time.Hour), ExpiresAt: ago(128 * time.Hour), EndedAt: new(time.Time), Version: 2},
		{ID: "export-4", Kind: api.ExportRecoveryKey, Status: api.ExportWaiting, AskedBy: "sara", Reason: "Otto has left", PeopleNeeded: 2, Agreed: 1, Devices: []api.KeyExportDevice{},
			RecoveryKey: &api.RecoveryKey{KeyID: "rk-7f3a9c51", Threshold: 2, Holders: []string{"Ada Lund", "Kim Sato", "Noor Haddad"}}, AskedAt: ago(time.Hour), ExpiresAt: end, Version: 1},
	}
	*b.exports[2].EndedAt = ago(128 * time.Hour)
}

func (e *exports) broker() *Broker { return (*Broker)(e) }

// List lists them.
func (e *exports) List(context.Context, tenant.Principal) ([]api.KeyExport, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.exports), nil
}

// Get finds one.
func (e *exports) Get(_ context.Context, _ tenant.Principal, id string) (api.KeyExport, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i, err := find(e.exports, func(x api.KeyExport) bool { return x.ID == id }, "export")
	if err != nil {
		return api.KeyExport{}, err
	}
	return e.exports[i], nil
}

func (e *exports) ask(p tenant.Principal, x api.KeyExport) (api.KeyExport, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x.Reason == "" {
		return x, problem.Invalid("reason", "is needed: the others decide by it")
	}
	if err := e.broker().write(p, "key", "key-export.asked", x.Reason); err != nil {
		return x, err
	}
	x.ID, x.Status, x.AskedBy, x.PeopleNeeded, x.Agreed, x.Own, x.Version = fmt.Sprintf("export-%d", len(e.exports)+1), api.ExportWaiting, p.UserName, e.people, 1, true, 1
	x.AskedAt, x.ExpiresAt = e.Clock(), e.Clock().Add(72*time.Hour)
	e.exports = append(e.exports, x)
	return x, nil
}

// Ask adds one.
func (e *exports) Ask(_ context.Context, p tenant.Principal, in api.KeyExportWrite) (api.KeyExport, error) {
	x := api.KeyExport{Kind: api.ExportDevices, Reason: in.Reason}
	for _, id := range in.DeviceIDs {
		x.Devices = append(x.Devices, api.KeyExportDevice{ID: id, Name: id, Generation: 1})
	}
	return e.ask(p, x)
}

// AskRecoveryKey adds one of a recovery key.
func (e *exports) AskRecoveryKey(_ context.Context, p tenant.Principal, in api.RecoveryKeyAsk) (api.KeyExport, error) {
	return e.ask(p, api.KeyExport{Kind: api.ExportRecoveryKey, Reason: in.Reason, Devices: []api.KeyExportDevice{},
		RecoveryKey: &api.RecoveryKey{KeyID: "rk-new", Threshold: 2, Holders: []string{"a", "b", "c"}}})
}

// change applies do to one that is open.
func (e *exports) change(p tenant.Principal, id, event string, do func(*api.KeyExport) error) (api.KeyExport, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i, err := find(e.exports, func(x api.KeyExport) bool { return x.ID == id }, "export")
	if err != nil {
		return api.KeyExport{}, err
	}
	x := &e.exports[i]
	if x.Status != api.ExportWaiting && x.Status != api.ExportApproved {
		return *x, problem.Conflict("This export is over.", "Nothing was changed.")
	}
	if err := e.broker().write(p, "key", event, id); err != nil {
		return *x, err
	}
	if err := do(x); err != nil {
		return *x, err
	}
	x.Version++
	e.Hub.Publish(e.account.ID, feed.TopicExports)
	return *x, nil
}

func (e *exports) over(p tenant.Principal, id, event string, status api.KeyExportStatus, reason string) (api.KeyExport, error) {
	return e.change(p, id, event, func(x *api.KeyExport) error {
		now := e.Clock()
		x.Status, x.EndedAt, x.EndedBy, x.EndReason = status, &now, p.UserName, reason
		return nil
	})
}

// Approve agrees to one.
func (e *exports) Approve(_ context.Context, p tenant.Principal, id string, d api.Decision) (api.KeyExport, error) {
	return e.change(p, id, "key-export.approved", func(x *api.KeyExport) error {
		if d.Version != x.Version {
			return problem.Stale("export")
		}
		x.Agreed++
		x.Approvals = append(x.Approvals, api.Approval{UserID: p.UserID, User: p.UserName, At: e.Clock(), ExpiresAt: e.Clock().Add(24 * time.Hour), Reason: d.Reason})
		if x.Agreed >= x.PeopleNeeded {
			x.Status = api.ExportApproved
		}
		return nil
	})
}

// Deny ends one.
func (e *exports) Deny(_ context.Context, p tenant.Principal, id string, d api.Decision) (api.KeyExport, error) {
	return e.over(p, id, "key-export.denied", api.ExportDenied, d.Reason)
}

// Cancel ends one.
func (e *exports) Cancel(_ context.Context, p tenant.Principal, id string, d api.Decision) (api.KeyExport, error) {
	return e.over(p, id, "key-export.cancelled", api.ExportCancelled, d.Reason)
}

// Fetch writes something that is no archive.
func (e *exports) Fetch(_ context.Context, p tenant.Principal, id string, _ api.KeyExportFetch, w io.Writer) error {
	if _, err := e.over(p, id, "key-export.fetched", api.ExportFetched, ""); err != nil {
		return err
	}
	_, err := io.WriteString(w, "archive")
	return err
}

// SetRecoveryKey ends one.
func (e *exports) SetRecoveryKey(_ context.Context, p tenant.Principal, id string) (api.RecoveryKey, error) {
	x, err := e.over(p, id, "recovery-key.set", api.ExportFetched, "")
	if err != nil || x.RecoveryKey == nil {
		return api.RecoveryKey{}, err
	}
	return *x.RecoveryKey, nil
}

// Settings tells how many people an export takes.
func (e *exports) Settings(context.Context, tenant.Principal) (api.ExportSettings, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return api.ExportSettings{People: e.people}, nil
}

// SetSettings keeps it.
func (e *exports) SetSettings(_ context.Context, p tenant.Principal, in api.ExportSettings) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.people = in.People
	return e.broker().write(p, "server", "settings.export-changed", fmt.Sprint(in.People))
}
