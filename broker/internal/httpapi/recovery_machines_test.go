package httpapi_test

import (
	"testing"

	"keyward/broker/api"
)

// which machines are ready for a time without the broker: given the newest envelope, and it is there by their word.
func TestRecovery_saysWhichMachinesAreReady(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		one, _ := o.machine("db1"), o.machine("db2")
		one.encrypted("data")
		security := o.person(api.RoleSecurityAdmin)
		_, err := security.RecoveryMachines(ctx)
		wantProblem(t, err, 404, "not-found")
		set := func() {
			h := newHolders(t)
			must[api.RecoveryKey](t)(security.SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: string(h.key.PEM())}))
		}
		set()
		are := func(what string, db1, db2 api.EnvelopeState) {
			t.Helper()
			list := must[[]api.RecoveryMachine](t)(security.RecoveryMachines(ctx))
			if len(list) != 2 || list[0].InstanceName != "db1" || list[0].State != db1 || list[1].State != db2 {
				t.Errorf("%s: %+v; want db1 %s, db2 %s", what, list, db1, db2)
			}
		}
		are("before they asked", api.EnvelopeNone, api.EnvelopeNone)
		e := must[api.RecoveryEnvelope](t)(one.Recovery(ctx, ""))
		are("given", api.EnvelopeIssued, api.EnvelopeNone)
		must[api.RecoveryEnvelope](t)(one.Recovery(ctx, e.Revision))
		must[api.RecoveryEnvelope](t)(one.Recovery(ctx, e.Revision))
		are("confirmed", api.EnvelopeCurrent, api.EnvelopeNone)
		// A pending key changes no envelope; another device does, and so does another key.
		one.publish(disk("data"), disk("more"))
		are("a device without a volume", api.EnvelopeCurrent, api.EnvelopeNone)
		set()
		are("another key", api.EnvelopeFormer, api.EnvelopeNone)
		e = must[api.RecoveryEnvelope](t)(one.Recovery(ctx, e.Revision))
		must[api.RecoveryEnvelope](t)(one.Recovery(ctx, e.Revision))
		are("renewed", api.EnvelopeCurrent, api.EnvelopeNone)
		if n := len(o.events("recovery-envelope.issued")); n != 2 {
			t.Errorf("%d envelopes were issued, want 2", n)
		}
	})
}
