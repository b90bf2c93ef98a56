package httpapi_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/broker/client"
)

func (o *org) defaultPolicy() api.Policy {
	o.t.Helper()
	list := must[[]api.Policy](o.t)(o.admin.Policies(o.t.Context()))
	if !list[0].Default {
		o.t.Fatalf("the default policy is not the first of %+v", list)
	}
	return list[0]
}

func TestDefaultPolicy_receivesWhatIsNewAndCannotGo(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		id := b.publish(disk("data"))["data"].ID
		p := o.defaultPolicy()
		if !slices.Equal(p.DeviceIDs, []string{id}) || len(p.ImageIDs) != 1 || p.OnMatch != api.ActionManual || len(p.Rules) != 0 {
			t.Fatalf("the default policy is %+v", p)
		}
		wantProblem(t, o.admin.DeletePolicy(ctx, p.ID), 409, "policy-is-default")
		for field, change := range map[string]func(*api.Policy){
			"name":       func(p *api.Policy) { p.Name = "Mine" },
			"device_ids": func(p *api.Policy) { p.DeviceIDs = []string{"x"} },
			"image_ids":  func(p *api.Policy) { p.ImageIDs = append(p.ImageIDs, "x") },
			"on_match":   func(p *api.Policy) { p.OnMatch = api.ActionApprove }, // without rules a person decides
		} {
			in := p
			change(&in)
			_, err := o.admin.UpdatePolicy(ctx, in)
			if !client.Is(err, "invalid") || !strings.Contains(err.Error(), field) {
				t.Errorf("%s: %v", field, err)
			}
		}
		in := p
		in.Rules, in.OnMatch = noPort80("x").Rules, api.ActionApprove
		got := must[api.Policy](t)(o.admin.UpdatePolicy(ctx, in))
		if got.OnMatch != api.ActionApprove || got.Version != p.Version+1 || !slices.Equal(got.DeviceIDs, p.DeviceIDs) {
			t.Fatalf("saved as %+v", got)
		}
		_, err := o.admin.UpdatePolicy(ctx, in)
		wantProblem(t, err, 409, "stale")
	})
}

func TestPolicy_membersMove(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		ids := b.publish(disk("a"), disk("b"))
		image := o.deviceIs(ids["a"].ID, api.DeviceNotConfigured).ImageID
		in := noPort80("web")
		in.LeaseSeconds, in.HeartbeatSeconds, in.RevokeMode = 60, 10, api.RevokeSuspend
		in.DeviceIDs, in.ImageIDs = []string{ids["a"].ID}, []string{image}
		web := must[api.Policy](t)(o.admin.CreatePolicy(ctx, in))
		if d := o.defaultPolicy(); slices.Contains(d.DeviceIDs, ids["a"].ID) || !slices.Contains(d.ImageIDs, image) {
			t.Fatalf("the default policy is %+v; a device is in one policy, an image may be in several", d)
		}
		_, err := o.admin.CreatePolicy(ctx, in)
		wantProblem(t, err, 409, "name-taken")

		in.Name, in.DeviceIDs = "mail", []string{ids["a"].ID, ids["b"].ID}
		mail := must[api.Policy](t)(o.admin.CreatePolicy(ctx, in))
		// Who has the other policy open does not move the device back unseen.
		_, err = o.admin.UpdatePolicy(ctx, web)
		wantProblem(t, err, 409, "stale")
		wantProblem(t, o.admin.DeletePolicy(ctx, mail.ID), 409, "policy-in-use")

		mail.DeviceIDs, mail.ImageIDs = []string{}, []string{}
		mail = must[api.Policy](t)(o.admin.UpdatePolicy(ctx, mail))
		if len(mail.DeviceIDs)+len(mail.ImageIDs) != 0 || len(o.defaultPolicy().DeviceIDs) != 2 {
			t.Fatalf("removed devices go back to the default policy: %+v", o.defaultPolicy())
		}
		body := map[string][]string{"ids": {mail.ID, web.ID}}
		if err := o.admin.Do(ctx, http.MethodPost, "/api/v1/policies/delete", body, nil); err != nil {
			t.Fatal(err)
		}
		if list := must[[]api.Policy](t)(o.admin.Policies(ctx)); len(list) != 1 {
			t.Fatalf("policies left: %+v", list)
		}
		in.DeviceIDs = []string{"x"}
		_, err = o.admin.CreatePolicy(ctx, in)
		wantProblem(t, err, 422, "invalid")
	})
}

func TestPolicy_rulesThatMakeNoSenseAreRefusedByField(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		in := noPort80("web")
		in.LeaseSeconds, in.HeartbeatSeconds, in.RevokeMode = 60, 10, api.RevokeUnmount
		in.Rules = append(in.Rules, api.Rule{Fact: api.FactSourceIPv4, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpIn, Value: "10.0.0.0/33"}}})
		_, err := o.admin.CreatePolicy(t.Context(), in)
		if !client.Is(err, "invalid") || !strings.Contains(err.Error(), "rules[1].conditions[0].value") {
			t.Fatalf("got %v", err)
		}
		var facts struct {
			Facts []struct{ Name, Title string }
		}
		if err := o.admin.Do(t.Context(), "GET", "/api/v1/facts", nil, &facts); err != nil || len(facts.Facts) < 15 {
			t.Fatalf("facts %+v: %v", facts, err)
		}
	})
}

func TestImages_areNamedByPeople(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		var list struct{ Images []api.Image }
		if err := o.admin.Do(ctx, "GET", "/api/v1/images", nil, &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Images) != 1 || list.Images[0].Instances != 1 || len(list.Images[0].PolicyIDs) != 1 {
			t.Fatalf("images %+v", list.Images)
		}
		path := "/api/v1/images/" + list.Images[0].ID
		var got api.Image
		if err := o.admin.Do(ctx, "PUT", path, api.ImageWrite{Name: "Database", Description: "gold"}, &got); err != nil || got.Name != "Database" {
			t.Fatalf("renamed to %+v: %v", got, err)
		}
		b.publish()
		if err := o.admin.Do(ctx, "GET", path, nil, &got); err != nil || got.Name != "Database" {
			t.Fatalf("the next inventory renamed it to %+v: %v", got, err)
		}
	})
}
