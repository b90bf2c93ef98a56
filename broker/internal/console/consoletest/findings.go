package consoletest

import (
	"fmt"
	"slices"
	"time"

	"keyward/broker/api"
)

var findings = []api.Finding{
	{Fact: api.FactTCPPorts, Title: "Network Services (TCP)", Condition: "(only these 22, 5432)", Actual: "22, 80, 5432", Status: api.RuleFailed, Grade: api.GradeSelfReported, Source: "procfs net/tcp"},
	{Fact: api.FactSourceIPv4, Title: "Request Source IP Address (IPv4)", Condition: "(in 192.0.2.0/24) OR (= 198.51.100.7)", Actual: "192.0.2.42", Status: api.RulePassed, Grade: api.GradeBrokerObserved, Source: "connection"},
	{Fact: api.FactExpression, Title: "Expression", Condition: "facts.kernel_version >= version(\"6.1\") &&\n  facts.package_version[\"openssl\"] >= package_version(\"3.0.11-1~deb12u2\")",
		Actual: "Kernel Version = 6.1.0-28-amd64; Package Version: openssl = 3.0.15-1~deb12u1", Status: api.RulePassed, Grade: api.GradeSelfReported, Source: "procfs sys/kernel/osrelease; dpkg status"},
	{Fact: api.FactMountPoint, Title: "Device Mount Point", Actual: "/mnt/a-mount-point-of-seventy-characters/that-must-wrap-and-is-never-cut/x", Status: api.RuleInformational, Grade: api.GradeSelfReported, Source: "configuration"},
	{Fact: api.FactLocation, Title: "Instance Location", Actual: "eu-central-1a", Status: api.RuleInformational, Grade: api.GradeCloudSigned, Source: "instance identity document"},
	{Fact: api.FactFirstSeen, Title: "Instance First Seen", Actual: "2026-10-13T08:00:00Z", Status: api.RuleInformational, Grade: api.GradeBrokerObserved, Source: "inventory"},
	{Fact: api.FactUserData, Title: "Instance User Data", Actual: "no data: the provider has none", Status: api.RuleInformational},
}

func (b *Broker) fillRequests(ago func(time.Duration) time.Time) {
	statuses := []struct {
		status    api.KeyStatus
		integrity api.Integrity
		policy    int
		age       time.Duration
	}{
		{api.KeyPending, api.IntegrityBad, 1, 12 * time.Minute},
		{api.KeyPending, api.IntegrityGood, 1, 40 * time.Second},
		{api.KeyPending, api.IntegrityUnknownMismatch, 0, 2 * time.Hour},
		{api.KeyDelivered, api.IntegrityGood, 1, 30 * time.Hour},
		{api.KeyDelivered, api.IntegrityFailed, 1, 5 * 24 * time.Hour},
		{api.KeyApproved, api.IntegrityGood, 1, 3 * time.Minute},
		{api.KeyDenied, api.IntegrityBad, 1, 26 * time.Hour},
		{api.KeyRevoking, api.IntegrityFailed, 1, 4 * time.Hour},
		{api.KeyRevoked, api.IntegrityFailed, 1, 9 * time.Hour},
		{api.KeyFailure, api.IntegrityGood, 1, 50 * time.Hour},
		{api.KeyExpired, api.IntegrityGood, 1, 70 * time.Hour},
		{api.KeyRevokePending, api.IntegrityFailed, 1, 20 * time.Minute},
		{api.KeyPending, api.IntegrityUnknownNoRules, 2, 25 * time.Minute},
	}
	findings := slices.Clone(findings)
	for i := range findings {
		if at := ago(13 * time.Minute); findings[i].Source != "" {
			findings[i].At = &at
		}
	}
	for i, s := range statuses {
		d, p := b.devices[i%3], b.policies[s.policy]
		n := int64(140 - i)
		r := api.KeyRequestDetail{
			RunningInstance: api.RunningInstance{RequestID: fmt.Sprintf("request-%d", i+1), Number: n, Status: s.status, Integrity: s.integrity, DeviceID: d.ID, DeviceName: d.Name,
				ImageID: "image-1", ImageName: "Debian 12 database", InstanceID: d.InstanceID, InstanceName: d.InstanceName, Provider: "ec2", PolicyID: p.ID, PolicyName: p.Name,
				RequestedAt: ago(s.age), Version: 1},
			Device:  d,
			Verdict: api.Verdict{Integrity: s.integrity, Action: api.ActionManual, Findings: findings, Reason: "1 of 3 rules failed, and the policy leaves that to a person."},
			Reason:  "1 of 3 rules failed, and the policy leaves that to a person.",
			History: []api.KeyRequestEvent{{At: ago(s.age), To: api.KeyPending, Event: "asked", Actor: "instance:" + d.InstanceID, Reason: "1 of 3 rules failed, and the policy leaves that to a person."}},
		}
		if r.ApprovalsNeeded = 1; i == 0 {
			ends := b.Clock().Add(6 * 24 * time.Hour)
			r.ApprovalsNeeded, r.ExpiresAt, r.SeparateApprover = 3, &ends, true
			r.Approvals = []api.Approval{{UserID: "user-8", User: "nina", At: ago(5 * time.Minute), Reason: "I have moved this machine myself.", ExpiresAt: ends},
				{UserID: "user-9", User: "bob", At: ago(30 * time.Hour), ExpiresAt: ago(6 * time.Hour), Void: "expired"}}
		}
		if s.integrity == api.IntegrityGood {
			r.Verdict.Findings, r.Verdict.ApproveAfterSeconds = findings[1:], 900
			r.Reason, r.Verdict.Reason = "All rules match; the policy leaves the decision to a person.", ""
			r.History[0].Reason = r.Reason
		}
		if s.status == api.KeyPending && s.integrity != api.IntegrityUnknownMismatch {
			r.WaitsFor = "An Account Administrator or Key Approver of the account approves or denies it."
			for _, u := range b.users {
				if u.Role == api.RoleAccountAdmin || u.Role == api.RoleKeyApprover {
					r.MayApprove = append(r.MayApprove, api.Approver{UserID: u.ID, Name: u.Name, DisplayName: u.DisplayName, Role: u.Role, Locked: u.LockedUntil != nil})
				}
			}
		}
		if s.status != api.KeyPending {
			at := ago(s.age / 2)
			r.DecidedBy, r.DecidedAt = "kim", &at
			r.History = append(r.History, api.KeyRequestEvent{At: at, From: api.KeyPending, To: s.status, Event: "approved", Actor: "user:kim", Reason: "Checked with the data centre, ticket 4711."})
		}
		b.requests = append(b.requests, r)
	}
}
