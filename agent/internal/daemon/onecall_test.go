package daemon

import (
	"strings"
	"testing"

	"keyward/agent/volume"
	"keyward/broker/api"
)

// An agent on its way to a key fetches no nonce: it makes one of the connection that it asks on.
func TestDaemon_asksForAKeyByOneCall(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	r.broker.Approve = func(api.KeyRequest) bool { return true }
	r.start()
	id, target := r.encrypted("data.img")
	q := r.broker.Asked(id, api.KeyDelivered)
	r.broker.Reported(q.ID, api.EventMounted)
	r.until(volume.Mounted)
	r.stop()

	given := r.broker.NoncesGiven()
	r.start()
	r.until(volume.Mounted)
	r.wantMounted(target, true)
	again := r.broker.Asked(id, api.KeyDelivered)
	if again.ID == q.ID || again.Asked.Nonce == q.Asked.Nonce {
		t.Fatalf("the agent did not ask again: %+v", again)
	}
	for _, q := range []string{q.Asked.Nonce, again.Asked.Nonce} {
		if !strings.HasPrefix(q, api.ConnectionNoncePrefix) {
			t.Errorf("nonce %q is not of a connection", q)
		}
	}
	if n := r.broker.NoncesGiven(); n != given {
		t.Errorf("%d nonces were fetched for one key", n-given)
	}
}
