package policy

import (
	"testing"

	"keyward/broker/api"
)

func TestValidate_checksAfterDelivery(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*api.Policy)
		field  string
	}{
		"off":                  {func(*api.Policy) {}, ""},
		"notify":               {func(p *api.Policy) { p.CheckEnabled = true }, ""},
		"revoke after a grace": {func(p *api.Policy) { p.CheckEnabled, p.OnCheckFailure, p.PostponeSeconds = true, api.CheckRevoke, 600 }, ""},
		"nothing to check": {func(p *api.Policy) {
			p.CheckEnabled, p.Rules, p.OnMatch, p.OnFailure = true, nil, api.ActionManual, api.ActionManual
		}, "check_enabled"},
		"heartbeats without checks":  {func(p *api.Policy) { p.CheckEveryHeartbeat = true }, "check_every_heartbeat"},
		"an unknown action":          {func(p *api.Policy) { p.OnCheckFailure = "hope" }, "on_check_failure"},
		"a grace for a notice":       {func(p *api.Policy) { p.CheckEnabled, p.PostponeSeconds = true, 60 }, "postpone_seconds"},
		"a grace of more than 30 d":  {func(p *api.Policy) { p.OnCheckFailure, p.PostponeSeconds = api.CheckRevoke, maxPostpone+1 }, "postpone_seconds"},
		"a negative grace":           {func(p *api.Policy) { p.OnCheckFailure, p.PostponeSeconds = api.CheckRevoke, -1 }, "postpone_seconds"},
		"missing before a heartbeat": {func(p *api.Policy) { p.MissingAfterSeconds = p.HeartbeatSeconds }, "missing_after_seconds"},
		"missing after a minute":     {func(p *api.Policy) { p.MissingAfterSeconds = 60 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := policyOf(api.Rule{Fact: api.FactGuestOS, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "linux"}}})
			c.change(&p)
			wrong := Validate(p)
			switch {
			case c.field == "" && len(wrong) > 0:
				t.Errorf("refused: %v", wrong)
			case c.field != "" && (len(wrong) != 1 || wrong[0].Field != c.field):
				t.Errorf("%v, want one reason on %s", wrong, c.field)
			}
		})
	}
}

func TestRevokeModeOf_suspendsWhereAKeyMayComeBack(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   api.Policy
		want api.RevokeMode
	}{
		{api.Policy{}, api.RevokeUnmount},
		{api.Policy{CheckEnabled: true, OnCheckFailure: api.CheckNotify}, api.RevokeUnmount},
		{api.Policy{CheckEnabled: true, OnCheckFailure: api.CheckRevoke}, api.RevokeSuspend},
		{api.Policy{CheckEnabled: true, OnCheckFailure: api.CheckRevoke, RevokeMode: api.RevokeUnmount}, api.RevokeUnmount},
		{api.Policy{RevokeMode: api.RevokeSuspend}, api.RevokeSuspend},
	} {
		if got := RevokeModeOf(c.in); got != c.want {
			t.Errorf("%+v: %s, want %s", c.in, got, c.want)
		}
	}
}
