package daemon

import (
	"testing"

	"keyward/agent/volume"
	"keyward/broker/api"
)

// A resource pool gives the machine another device than it asked for: the agent asks for that one, and leaves the first.
func TestDaemon_followsTheDeviceThatAPoolGives(t *testing.T) {
	needs(t)
	r := newRig(t)
	r.image("wanted.img", 32<<20)
	r.image("given.img", 32<<20)
	r.enrol()
	r.start()
	wanted, _ := r.encrypted("wanted.img")
	given, target := r.encrypted("given.img")
	r.broker.Asked(given, api.KeyPending)
	r.broker.Asked(wanted, api.KeyPending)

	kept := r.broker.Give(wanted, given)
	r.eventually("the agent asks for the device that it was given", func() bool {
		q := r.broker.Newest(given)
		return q.Number > kept.Number && q.Status == api.KeyPending
	})
	r.broker.Decide(r.broker.Newest(given).ID, api.KeyApproved, "a person approved")
	r.eventually("the volume is mounted", func() bool {
		for _, v := range r.status().Volumes {
			if v.DeviceID == given && v.State == volume.Mounted {
				return true
			}
		}
		return false
	})
	r.wantMounted(target, true)
	run := r.broker.Newest(given).Asked.Run
	if run == nil || run.Generation != 1 || run.BootID == "" || run.ID == "" {
		t.Errorf("the request says of its run: %+v", run)
	}
	r.stop()
}
