package httpapi_test

import (
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/store"
)

// colleague is a further person of a role, logged on.
func (o *org) colleague(name string, role api.Role) *client.People {
	o.t.Helper()
	err := o.store.Tx(o.t.Context(), func(tx *store.Tx) error {
		users := store.In[store.User](tx.Tenant(o.id))
		admin, err := users.First()
		if err != nil {
			return err
		}
		return users.Insert(&store.User{Name: name, Role: role, PasswordHash: admin.PasswordHash})
	})
	if err != nil {
		o.t.Fatalf("user %s: %v", name, err)
	}
	return o.logOn(name)
}

// twoPeople approves nothing by itself and needs two people.
func twoPeople() api.Policy {
	p := noPort80("two people")
	p.OnMatch, p.ApprovalsNeeded = api.ActionManual, 2
	return p
}

func TestApprovals_asManyPeopleAsThePolicyNeeds(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		o.policy(twoPeople(), d)
		a := b.ask(d.ID, "22")
		half := must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, a.ID, api.Decision{Reason: "on call"}))
		eq(t, "status after one", half.Status, api.KeyPending)
		eq(t, "needed", half.ApprovalsNeeded, 2)
		if len(half.Approvals) != 1 || half.Approvals[0].User != string(api.RoleKeyApprover) || half.Approvals[0].Reason != "on call" {
			t.Fatalf("approvals %+v", half.Approvals)
		}
		if !strings.Contains(half.Reason, "1 of the 2 people") {
			t.Errorf("reason %q does not say what is missing", half.Reason)
		}
		_, err := o.approver.Approve(ctx, a.ID, api.Decision{})
		wantProblem(t, err, 409, "already-approved")
		_, err = b.Delivery(ctx, a.ID, api.DeliveryRequest{PublicKey: a.private.PublicKey()})
		wantProblem(t, err, 409, "not-approved")

		done := must[api.KeyRequestDetail](t)(o.admin.Approve(ctx, a.ID, api.Decision{}))
		eq(t, "status after two", done.Status, api.KeyApproved)
		eq(t, "decided by", done.DecidedBy, "key-approver, account-administrator")
		a.collect()
		if len(o.events("key-request.seconded")) != 1 || len(o.events("key-request.approved")) != 1 {
			t.Error("the log does not have each approval")
		}
	})
}

func TestApprovals_endAndAreTakenBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		p := twoPeople()
		p.LeaseSeconds, p.HeartbeatSeconds = 2592000, 86400
		o.policy(p, d)

		// One that is a day old does not count, and may be given anew.
		a := b.ask(d.ID, "22")
		must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, a.ID, api.Decision{}))
		r.later(24*time.Hour + time.Minute)
		eq(t, "status", must[api.KeyRequestDetail](t)(o.admin.Approve(ctx, a.ID, api.Decision{})).Status, api.KeyPending)
		eq(t, "why the first does not count", a.is(api.KeyPending).Approvals[0].Void, "expired")
		must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, a.ID, api.Decision{}))
		a.is(api.KeyApproved)

		// Who was deleted, or may not approve any more, does not count.
		a = b.ask(d.ID, "22")
		bob, eve := o.colleague("bob", api.RoleKeyApprover), o.colleague("eve", api.RoleKeyApprover)
		must[api.KeyRequestDetail](t)(bob.Approve(ctx, a.ID, api.Decision{}))
		var users []api.User
		if err := o.admin.Do(ctx, "GET", "/api/v1/users", nil, &users); err != nil {
			t.Fatal(err)
		}
		for _, u := range users {
			if u.Name == "bob" {
				if err := o.admin.Do(ctx, "PUT", "/api/v1/users/"+u.ID, api.UserWrite{Name: "bob", Role: api.RoleAuditor}, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		must[api.KeyRequestDetail](t)(eve.Approve(ctx, a.ID, api.Decision{}))
		eq(t, "why the auditor does not count", a.is(api.KeyPending).Approvals[0].Void, "the user may not approve any more")
		for _, u := range users {
			if u.Name == "eve" {
				if err := o.admin.Do(ctx, "DELETE", "/api/v1/users/"+u.ID, nil, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, a.ID, api.Decision{}))
		eq(t, "why the deleted user does not count", a.is(api.KeyPending).Approvals[1].Void, "the user was deleted")

		// A denial ends it, whoever approved before.
		must[api.KeyRequestDetail](t)(o.admin.Deny(ctx, a.ID, api.Decision{Reason: "not tonight"}))
		_, err := o.admin.Approve(ctx, a.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")
		a.is(api.KeyDenied)
	})
}

func TestApprovals_loosenedPolicyDoesNotLoosenWhatWaits(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		pol := o.policy(twoPeople(), d)
		a := b.ask(d.ID, "22")
		pol.ApprovalsNeeded = 1
		if _, err := o.admin.UpdatePolicy(ctx, pol); err != nil {
			t.Fatal(err)
		}
		eq(t, "status of the old request", must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, a.ID, api.Decision{})).Status, api.KeyPending)
		next := b.ask(d.ID, "22")
		eq(t, "status of a new one", must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, next.ID, api.Decision{})).Status, api.KeyApproved)
	})
}

func TestApprovals_notByWhoBroughtTheRequestAbout(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data") // the administrator configured it and ordered its encryption
		p := noPort80("separate")
		p.OnMatch, p.SeparateApprover = api.ActionManual, true
		d.PolicyID = o.policy(p, d).ID
		a := b.ask(d.ID, "22")
		_, err := o.admin.Approve(ctx, a.ID, api.Decision{})
		wantProblem(t, err, 403, "own-request")
		if !strings.Contains(err.Error(), "configured the device") {
			t.Errorf("%v does not say why", err)
		}
		must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, a.ID, api.Decision{}))
		a.collect()
		a.report(api.EventUnmounted)

		// So is who made the token that a machine enrolled with.
		var token api.EnrolmentTokenInfo
		if err := o.admin.Do(ctx, "POST", "/api/v1/enrolment-tokens", api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 600}, &token); err != nil {
			t.Fatal(err)
		}
		c := o.machineBy("db2", token.Token)
		c.publish(disk("data"))
		a2 := c.ask(d.ID, "22")
		eq(t, "integrity on a machine of another image", a2.Integrity, api.IntegrityUnknownImgPolicy)
		must[api.KeyRequestDetail](t)(o.admin.AssignPolicy(ctx, a2.ID, api.PolicyAssignment{PolicyID: d.PolicyID}))
		_, err = o.admin.Approve(ctx, a2.ID, api.Decision{})
		wantProblem(t, err, 403, "own-request")
		if !strings.Contains(err.Error(), "made the token") {
			t.Errorf("%v does not say why", err)
		}
		must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, a2.ID, api.Decision{}))
	})
}

func TestRequest_expiresWhenThePolicySays(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		p := noPort80("short")
		p.OnMatch, p.RequestSeconds, p.LeaseSeconds, p.HeartbeatSeconds = api.ActionManual, 3600, 2592000, 86400
		o.policy(p, d)
		a := b.ask(d.ID, "22")
		if ends := a.is(api.KeyPending).ExpiresAt; ends == nil || ends.Sub(r.now()) > time.Hour {
			t.Fatalf("the request ends at %v", ends)
		}
		r.later(59 * time.Minute)
		a.is(api.KeyPending)
		r.later(2 * time.Minute)
		a.is(api.KeyExpired)
	})
}
