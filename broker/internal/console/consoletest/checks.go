package consoletest

import (
	"context"
	"fmt"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/schedule"
	"keyward/broker/internal/tenant"
)

func (r *requests) Ignore(_ context.Context, p tenant.Principal, id string, d api.Decision) error {
	return r.move(p, id, d, []api.KeyStatus{api.KeyRevokePending}, api.KeyRevokeIgnored, "revoke-ignored")
}

func (r *requests) CheckSchedule(context.Context, tenant.Principal) (api.CheckSchedule, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := api.CheckSchedule{CheckSettings: r.checks, TimeZone: r.account.TimeZone, Policies: 1, Waiting: 2, Overdue: 1}
	if at, err := schedule.Parse(r.checks.Time, r.checks.Weekday); err == nil {
		next := at.Next(r.Clock(), r.Clock().Location())
		s.NextAt = &next
	}
	return s, nil
}

func (r *requests) SetCheckSettings(_ context.Context, p tenant.Principal, in api.CheckSettings) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := schedule.Parse(in.Time, in.Weekday); err != nil && in.Schedule != "" {
		return problem.Invalid("time", "a time from 00:00 to 23:59")
	}
	if in.RetrySeconds < 0 {
		return problem.Invalid("retry_seconds", "choose 0 to 30 days")
	}
	r.checks = in
	return (*Broker)(r).write(p, "server", "settings.checks-changed", "")
}

func (r *requests) CheckNow(_ context.Context, p tenant.Principal, id string) (api.CheckAsked, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := find(r.machines, func(m api.Instance) bool { return m.ID == id }, "instance"); err != nil {
		return api.CheckAsked{}, err
	}
	now := r.Clock()
	for i := range r.requests {
		if r.requests[i].InstanceID == id && r.requests[i].LeaseExpiresAt != nil {
			r.requests[i].CheckAskedAt = &now
		}
	}
	r.Hub.Publish(r.account.ID, feed.TopicKeyRequests)
	return api.CheckAsked{InstanceID: id, AskedAt: now}, (*Broker)(r).write(p, "agent", "integrity.check-asked", id)
}

func (r *requests) CheckDevice(ctx context.Context, p tenant.Principal, id string) (api.CheckAsked, error) {
	d, err := (*Broker)(r).Device(ctx, p, id)
	if err != nil {
		return api.CheckAsked{}, err
	}
	return r.CheckNow(ctx, p, d.InstanceID)
}

func (r *requests) Notices(_ context.Context, p tenant.Principal) (api.NoticeList, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []api.Notice
	for _, e := range r.exports {
		if e.Status == api.ExportWaiting && (p.Role == api.RoleSecurityAdmin || p.Role == api.RoleAuditor) {
			out = append(out, api.Notice{ID: e.ID, Kind: "export-waits", At: e.AskedAt, ExportID: e.ID,
				Text: fmt.Sprintf("%s asks for %d keys: %s. %d of %d people agree.", e.AskedBy, len(e.Devices), e.Reason, e.Agreed, e.PeopleNeeded)})
		}
	}
	out = append(out, r.notices...)
	return api.NoticeList{Notices: out, Total: int64(len(out))}, nil
}

func (r *requests) Dismiss(_ context.Context, p tenant.Principal, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.notices)
	r.notices = slices.DeleteFunc(r.notices, func(n api.Notice) bool { return id == "all" || n.ID == id })
	if len(r.notices) == before && id != "all" {
		return problem.NotFound("notice")
	}
	return (*Broker)(r).write(p, "user", "notice.dismissed", id)
}

// deviceNotice tells of the first device, without a request.
func (b *Broker) deviceNotice(kind, text string) {
	b.notice(kind, text)
	b.notices[len(b.notices)-1].RequestID = ""
}

// notice tells of the first request.
func (b *Broker) notice(kind, text string) {
	r := b.requests[0]
	b.notices = append(b.notices, api.Notice{ID: fmt.Sprintf("notice-%d", len(b.notices)+1), Kind: kind, At: b.Clock(), RequestID: r.RequestID, InstanceID: r.InstanceID,
		Instance: r.InstanceName, DeviceID: r.DeviceID, Device: r.DeviceName, Text: text})
}
