package consoletest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

type requests Broker

func (r *requests) List(_ context.Context, _ tenant.Principal, f keyrequest.Filter) (api.RunningInstances, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := api.RunningInstances{Instances: int64(len(r.machines))}
	for _, k := range r.requests {
		switch k.Status {
		case api.KeyPending:
			out.Pending++
		case api.KeyApproved, api.KeyDelivered:
			out.Approved++
		}
		if len(f.Statuses) > 0 && !slices.Contains(f.Statuses, k.Status) || !strings.Contains(strings.ToLower(k.DeviceName+k.InstanceName), strings.ToLower(f.Query)) {
			continue
		}
		out.Rows = append(out.Rows, k.RunningInstance)
	}
	out.Total = int64(len(out.Rows))
	from := min((max(f.Page, 1)-1)*f.Size, len(out.Rows))
	out.Rows = out.Rows[from:min(from+f.Size, len(out.Rows))]
	return out, nil
}

func (r *requests) Get(_ context.Context, _ tenant.Principal, id string) (api.KeyRequestDetail, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, err := find(r.requests, func(k api.KeyRequestDetail) bool { return k.RequestID == id }, "key request")
	if err != nil {
		return api.KeyRequestDetail{}, err
	}
	return r.requests[i], nil
}

func (r *requests) move(p tenant.Principal, id string, d api.Decision, from []api.KeyStatus, to api.KeyStatus, event string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, err := find(r.requests, func(k api.KeyRequestDetail) bool { return k.RequestID == id }, "key request")
	if err != nil {
		return err
	}
	k := &r.requests[i]
	if d.Version != 0 && d.Version != k.Version {
		return problem.Stale("key request")
	}
	if !slices.Contains(from, k.Status) {
		return problem.Conflict("The key request is "+string(k.Status)+".", "Open it again to see what can be done.")
	}
	if err := (*Broker)(r).write(p, "key", "key-request."+event, id); err != nil {
		return err
	}
	now := r.Clock()
	k.History = append(k.History, api.KeyRequestEvent{At: now, From: k.Status, To: to, Event: event, Actor: p.Actor(), Reason: d.Reason})
	k.Status, k.DecidedBy, k.DecidedAt = to, p.UserName, &now
	k.Version++
	r.Hub.Publish(r.account.ID, feed.TopicKeyRequests)
	return nil
}

func (r *requests) Approve(_ context.Context, p tenant.Principal, id string, d api.Decision) error {
	return r.move(p, id, d, []api.KeyStatus{api.KeyPending}, api.KeyApproved, "approved")
}

func (r *requests) Deny(_ context.Context, p tenant.Principal, id string, d api.Decision) error {
	return r.move(p, id, d, []api.KeyStatus{api.KeyPending, api.KeyApproved}, api.KeyDenied, "denied")
}

func (r *requests) Revoke(_ context.Context, p tenant.Principal, id string, d api.Decision) error {
	return r.move(p, id, d, []api.KeyStatus{api.KeyDelivered}, api.KeyRevoking, "revoke-asked")
}

func (r *requests) AssignPolicy(_ context.Context, p tenant.Principal, id string, in api.PolicyAssignment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i, err := find(r.requests, func(k api.KeyRequestDetail) bool { return k.RequestID == id }, "key request")
	if err != nil {
		return err
	}
	if err := (*Broker)(r).write(p, "key", "key-request.policy-assigned", id); err != nil {
		return err
	}
	r.requests[i].PolicyID, r.requests[i].Integrity = in.PolicyID, api.IntegrityGood
	return nil
}

type policies Broker

func (s *policies) List(context.Context, tenant.Principal) ([]api.Policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.policies), nil
}

func (s *policies) Get(_ context.Context, _ tenant.Principal, id string) (api.Policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := find(s.policies, func(p api.Policy) bool { return p.ID == id }, "policy")
	if err != nil {
		return api.Policy{}, err
	}
	return s.policies[i], nil
}

func check(in api.Policy) error {
	fields := map[string]string{}
	for _, e := range policy.Validate(in) {
		fields[e.Field] = e.Message
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	return nil
}

func (s *policies) Create(_ context.Context, p tenant.Principal, in api.Policy) (api.Policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := check(in)
	if err == nil {
		err = (*Broker)(s).write(p, "policy", "policy.created", in.Name)
	}
	if err != nil {
		return api.Policy{}, err
	}
	in.ID, in.Version = uuid.NewString(), 1
	s.policies = append(s.policies, in)
	return in, nil
}

func (s *policies) Update(_ context.Context, p tenant.Principal, id string, in api.Policy) (api.Policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := find(s.policies, func(p api.Policy) bool { return p.ID == id }, "policy")
	if err == nil && in.Version != s.policies[i].Version {
		err = problem.Stale("policy")
	}
	if err == nil {
		err = check(in)
	}
	if err == nil {
		err = (*Broker)(s).write(p, "policy", "policy.changed", in.Name)
	}
	if err != nil {
		return api.Policy{}, err
	}
	in.ID, in.Version = id, in.Version+1
	s.policies[i] = in
	return in, nil
}

func (s *policies) Delete(_ context.Context, p tenant.Principal, ids ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := (*Broker)(s).write(p, "policy", "policy.deleted", strings.Join(ids, ",")); err != nil {
		return err
	}
	s.policies = slices.DeleteFunc(s.policies, func(p api.Policy) bool { return slices.Contains(ids, p.ID) })
	return nil
}

func (s *policies) Facts() []policy.FactInfo { return policy.Facts() }

// Query selects records, newest first.
func (b *Broker) Query(_ context.Context, _ tenant.Principal, f audit.Filter) (api.AuditPage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var page api.AuditPage
	for _, r := range slices.Backward(b.records) {
		if f.Category == "" || r.Category == f.Category {
			page.Records = append(page.Records, r)
		}
	}
	page.Total = int64(len(page.Records))
	if f.Size > 0 {
		from := min((max(f.Page, 1)-1)*f.Size, len(page.Records))
		page.Records = page.Records[from:min(from+f.Size, len(page.Records))]
	}
	return page, nil
}

// ExportCSV writes a line a record.
func (b *Broker) ExportCSV(ctx context.Context, p tenant.Principal, f audit.Filter, w io.Writer) error {
	page, err := b.Query(ctx, p, f)
	for _, r := range page.Records {
		fmt.Fprintf(w, "%d,%s\n", r.Sequence, r.Event)
	}
	return err
}

// ExportJSONL writes a record a line.
func (b *Broker) ExportJSONL(ctx context.Context, p tenant.Principal, f audit.Filter, w io.Writer) error {
	page, err := b.Query(ctx, p, f)
	for _, r := range page.Records {
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return err
		}
	}
	return err
}
