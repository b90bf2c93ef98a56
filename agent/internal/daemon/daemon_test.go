package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt/keymem/memsearch"
)

const imageSize = 64 << 20

// wantNoKey fails when the key of a device, or either of the two AES keys it is made of, is found in a process. Pid 0 is
// this one, in which agent and broker run.
func (r *rig) wantNoKey(pid int, id string) {
	r.t.Helper()
	if raceEnabled {
		return
	}
	whole := r.broker.KeyPattern(id)
	for name, part := range map[string]memsearch.Pattern{"volume key": whole, "data key": whole[:len(whole)/2], "tweak key": whole[len(whole)/2:]} {
		found, err := memsearch.Search(pid, part)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, where := range found {
			r.t.Errorf("the %s is in memory: %s", name, where)
		}
	}
}

func TestDaemon_aVolumeFromEnrolmentToDataAndBack(t *testing.T) {
	r := newRig(t)
	disk := r.image("data.img", imageSize)
	r.enrol()
	r.start()

	id, target := r.encrypted("data.img")
	q := r.broker.Asked(id, api.KeyPending)
	r.wantMounted(target, false)
	r.eventually("the reason to reach the machine", func() bool {
		v := r.until(volume.Waiting)
		return v.RequestNumber == q.Number && v.Why == "a person has to decide"
	})
	facts := map[api.FactName][]string{}
	for _, f := range q.Asked.Evidence.Facts {
		facts[f.Name] = f.Values
	}
	if facts[api.FactMountPoint] == nil || facts[api.FactMountPoint][0] != target || facts[api.FactLocation][0] != "rack 7" {
		t.Errorf("evidence lacks mount point or location: %v", facts)
	}

	r.broker.Decide(q.ID, api.KeyApproved, "a person approved")
	r.broker.Reported(q.ID, api.EventMounted)
	r.wantMounted(target, true)
	secret := strings.Repeat("The quick brown fox jumps over the lazy dog. ", 200)
	r.write(filepath.Join(target, "file"), secret)
	v := r.until(volume.Mounted)
	if v.MountPoint != target || v.Kind == "" || v.KeyProtection == "" || v.LeaseSeconds <= 0 {
		t.Errorf("a mounted volume shows %+v", v)
	}

	r.broker.Revoke(q.ID, api.RevokeUnmount, "no longer fit")
	r.broker.Reported(q.ID, api.EventRevoked)
	r.wantMounted(target, false)
	r.wantNoKey(0, id)
	raw, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte(secret[:45])) {
		t.Error("the disk holds the file in clear")
	}
	if v := r.until(volume.Locked); v.KeyProtection != "" || v.LeaseSeconds != 0 || v.Why == "" {
		t.Errorf("a revoked volume shows %+v", v)
	}

	// The same request, approved again.
	r.broker.Decide(q.ID, api.KeyApproved, "complies again")
	r.until(volume.Mounted)
	r.wantFile(filepath.Join(target, "file"), secret)
	r.stop()
	r.wantMounted(target, false)
	r.broker.Reported(q.ID, api.EventUnmounted)
	r.wantNoKey(0, id)
}
