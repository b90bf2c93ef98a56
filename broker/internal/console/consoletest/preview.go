package consoletest

import (
	"context"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
)

// Policy previews a draft over the invented requests: those of the draft's devices, by the number of its rules.
func (s *policies) Policy(_ context.Context, _ tenant.Principal, draft api.Policy) (api.PolicyPreview, error) {
	if err := check(draft); err != nil {
		return api.PolicyPreview{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := api.PolicyPreview{At: s.Clock(), Rows: []api.PreviewRow{}}
	for _, r := range s.requests[:6] {
		if !slices.Contains(draft.DeviceIDs, r.DeviceID) {
			continue
		}
		at := s.Clock().Add(-4 * time.Minute)
		row := api.PreviewRow{DeviceID: r.DeviceID, DeviceName: r.DeviceName, InstanceID: r.InstanceID, InstanceName: r.InstanceName,
			RequestID: r.RequestID, Number: r.Number, Status: r.Status, FactsAt: &at,
			Before: api.Judgment{Policy: r.PolicyName, Outcome: api.OutcomeWaits, Integrity: r.Integrity, Reason: r.Verdict.Reason},
			After:  judged(draft, r)}
		if r.Status == api.KeyDelivered {
			row.Before.Outcome = api.OutcomeKeeps
			if r.Integrity == api.IntegrityFailed {
				row.Before.Outcome = api.OutcomeRevoked
			}
		}
		out.Before.Add(row.Before.Outcome)
		out.After.Add(row.After.Outcome)
		if row.Before.Outcome != row.After.Outcome {
			out.Changed++
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

func judged(draft api.Policy, r api.KeyRequestDetail) api.Judgment {
	j := api.Judgment{Policy: draft.Name, Outcome: api.OutcomeApproved, Integrity: api.IntegrityGood, Reason: "All rules passed: the policy approves."}
	if r.Status == api.KeyDelivered {
		j.Outcome = api.OutcomeKeeps
	}
	if len(draft.Rules) > 0 && r.Integrity != api.IntegrityGood {
		j = api.Judgment{Policy: draft.Name, Outcome: api.OutcomeDenied, Integrity: api.IntegrityBad, Reason: "1 of 3 rules failed: the policy denies.", Failed: findings[:1]}
		if r.Status == api.KeyDelivered {
			j.Outcome = api.OutcomeRevoked
		}
	}
	return j
}

// Replay tells that one request of two would have been answered otherwise.
func (s *policies) Replay(_ context.Context, _ tenant.Principal, draft api.Policy, days int) (api.PolicyReplay, error) {
	if err := check(draft); err != nil {
		return api.PolicyReplay{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock()
	out := api.PolicyReplay{From: now.AddDate(0, 0, -days), To: now, Requests: 2, Different: 1, Then: api.OutcomeCounts{Approved: 1, Waits: 1},
		Now: api.OutcomeCounts{Waits: 1, Denied: 1}, Rows: []api.ReplayRow{}}
	r := s.requests[3]
	out.Rows = append(out.Rows, api.ReplayRow{RequestID: r.RequestID, Number: r.Number, At: r.RequestedAt, DeviceName: r.DeviceName, InstanceName: r.InstanceName,
		Then: api.OutcomeWaits, Decision: "approved by kim", Now: api.Judgment{Policy: draft.Name, Outcome: api.OutcomeDenied,
			Integrity: api.IntegrityBad, Reason: "1 of 3 rules failed: the policy denies.", Failed: findings[:1]}})
	return out, nil
}
