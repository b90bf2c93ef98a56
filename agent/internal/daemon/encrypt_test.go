package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keyward/agent/internal/brokertest"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/luks2"
)

func (r *rig) mkfs(path string) {
	r.t.Helper()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path).CombinedOutput(); err != nil {
		r.t.Fatalf("mkfs: %v: %s", err, out)
	}
}

// M-09 and the seed's warning: what holds data is never overwritten without the word.
func TestEncrypt_refusesADeviceThatHoldsDataUnlessTheWordWasGiven(t *testing.T) {
	r := newRig(t)
	disk := r.image("data.img", imageSize)
	r.mkfs(disk)
	before, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	r.enrol()
	r.start()
	d := r.broker.Published("data.img")
	if got := r.broker.Reports()[0].Devices; !strings.Contains(contentsOf(got, "data.img"), "ext4") {
		t.Errorf("the inventory does not say what the device holds: %+v", got)
	}
	r.broker.Configure(d.ID, "ext4", filepath.Join(r.dir, "mnt"), api.AccessReadWrite, 256)
	progress := r.broker.JobEnd(r.broker.Encrypt(d.ID, false))
	last := progress[len(progress)-1]
	if last.Done || !strings.Contains(last.Failed, "ext4") || !strings.Contains(last.Failed, "destroys") {
		t.Errorf("the job ended with %+v", last)
	}
	if after, err := os.ReadFile(disk); err != nil || string(after) != string(before) {
		t.Fatalf("a refused job changed the disk (%v)", err)
	}
	progress = r.broker.JobEnd(r.broker.Encrypt(d.ID, true))
	if last := progress[len(progress)-1]; !last.Done || last.Volume == nil {
		t.Fatalf("with the word the job ended with %+v", last)
	}
	phases := map[string]bool{}
	for _, p := range progress {
		phases[p.Phase] = true
	}
	if !phases["file system"] || !phases["done"] {
		t.Errorf("progress told only of %v", phases)
	}
	r.mounted(d.ID)
	r.until(volume.Mounted)
}

func contentsOf(devices []api.InventoryDevice, name string) string {
	for _, d := range devices {
		if d.Name == name {
			return d.Contents
		}
	}
	return ""
}

func TestEncrypt_everyFileSystemAndKeySize(t *testing.T) {
	for _, c := range []struct {
		fs   string
		bits int
		size int64
	}{{"ext3", 128, imageSize}, {"ext4", 192, imageSize}, {"xfs", 256, 400 << 20}} {
		t.Run(c.fs, func(t *testing.T) {
			if _, err := exec.LookPath("mkfs." + c.fs); err != nil {
				t.Skipf("needs mkfs.%s", c.fs)
			}
			r := newRig(t)
			r.image("data.img", c.size)
			r.enrol()
			r.start()
			d := r.broker.Published("data.img")
			target := filepath.Join(r.dir, "mnt")
			r.broker.Configure(d.ID, c.fs, target, api.AccessReadWrite, c.bits)
			progress := r.broker.JobEnd(r.broker.Encrypt(d.ID, false))
			if last := progress[len(progress)-1]; !last.Done || last.Volume.KeyBits != c.bits {
				t.Fatalf("encrypt job: %+v", last)
			}
			q := r.mounted(d.ID)
			r.write(filepath.Join(target, "file"), "kept")
			r.broker.Revoke(q.ID, api.RevokeUnmount, "")
			r.broker.Reported(q.ID, api.EventRevoked)
			r.broker.Decide(q.ID, api.KeyApproved, "")
			r.until(volume.Mounted)
			r.wantFile(filepath.Join(target, "file"), "kept")
		})
	}
}

func TestOpen_readOnlyDeviceIsMountedReadOnly(t *testing.T) {
	r := newRig(t)
	disk := r.image("data.img", imageSize)
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	r.write(filepath.Join(target, "file"), "kept")
	r.broker.Revoke(q.ID, api.RevokeUnmount, "")
	r.broker.Reported(q.ID, api.EventRevoked)
	before, _ := os.ReadFile(disk)
	r.broker.Configure(id, "ext4", target, api.AccessReadOnly, 256)
	r.broker.Decide(q.ID, api.KeyApproved, "")
	v := r.until(volume.Mounted)
	if v.Access != string(api.AccessReadOnly) {
		t.Errorf("status shows access %q", v.Access)
	}
	r.wantFile(filepath.Join(target, "file"), "kept")
	if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); err == nil {
		t.Error("a read-only volume was written")
	}
	r.broker.Revoke(q.ID, api.RevokeUnmount, "")
	r.until(volume.Locked)
	if after, _ := os.ReadFile(disk); string(after) != string(before) {
		t.Error("a read-only use changed the disk")
	}
}

// What the disk says is only a claim: the broker's record decides.
func TestOpen_refusesWhatTheRecordDoesNotSay(t *testing.T) {
	steps := map[string]struct {
		change func(t *testing.T, r *rig, id, disk string)
		says   string
	}{
		"headers of two volumes swapped": {func(t *testing.T, r *rig, id, disk string) {
			copyHeader(t, filepath.Join(r.dir, "other.img"), disk)
		}, "uuid"},
		"an older header than the record": {func(_ *testing.T, r *rig, id, _ string) {
			r.broker.Edit(id, func(d *brokertest.Device) { d.Volume.Epoch++ })
		}, "epoch"},
		"another sector size": {func(_ *testing.T, r *rig, id, _ string) {
			r.broker.Edit(id, func(d *brokertest.Device) { d.Volume.SectorSize = 512 })
		}, "sector_size"},
		"a record of another device": {func(_ *testing.T, r *rig, id, _ string) {
			r.broker.Edit(id, func(d *brokertest.Device) { d.Volume.Device = "another" })
		}, "record in device"},
		"a record of another account": {func(_ *testing.T, r *rig, id, _ string) {
			r.broker.Edit(id, func(d *brokertest.Device) { d.Volume.Account = "another" })
		}, "account"},
		"another key": {func(_ *testing.T, r *rig, id, _ string) {
			r.broker.Edit(id, func(d *brokertest.Device) { d.Key[3] ^= 1 })
		}, "key"},
		"no header at all": {func(t *testing.T, r *rig, id, disk string) {
			dev, err := blockdev.OpenFile(disk, blockdev.FileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			if err := luks2.WipeHeader(dev); err != nil {
				t.Fatal(err)
			}
		}, "header"},
	}
	for name, s := range steps {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			disk := r.image("data.img", imageSize)
			r.image("other.img", imageSize)
			r.enrol()
			r.start()
			r.encrypted("other.img")
			id, target := r.encrypted("data.img")
			q := r.broker.Asked(id, api.KeyPending)
			s.change(t, r, id, disk)
			before, _ := os.ReadFile(disk)
			r.broker.Decide(q.ID, api.KeyApproved, "")
			e := r.broker.Reported(q.ID, api.EventFailed)
			if !strings.Contains(e.Detail, s.says) {
				t.Errorf("the refusal does not name %q: %s", s.says, e.Detail)
			}
			r.wantMounted(target, false)
			r.wantNoKey(0, id)
			if after, _ := os.ReadFile(disk); string(after) != string(before) {
				t.Error("a refused disk was changed")
			}
		})
	}
}

func copyHeader(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := dst.WriteAt(src[:2*luks2.HeaderSize], 0); err != nil {
		t.Fatal(err)
	}
}

// Z21, D1: a damaged primary header is repaired from the good copy once the key has vouched for it.
func TestOpen_repairsADamagedHeaderCopy(t *testing.T) {
	r := newRig(t)
	disk := r.image("data.img", imageSize)
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r.mounted(id)
	r.wantMounted(target, true)
	r.stop()
	dev, err := blockdev.OpenFile(disk, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if h, err := luks2.Read(dev); err != nil || h.Recovered {
		t.Errorf("the header was not repaired: %+v, %v", h, err)
	}
}

// A delivery that is bound to something else than was asked for opens nothing.
func TestDelivery_thatWasTamperedWithIsRefused(t *testing.T) {
	for name, tamper := range map[string]func(*api.KeyDelivery){
		"sealed key":       func(d *api.KeyDelivery) { d.SealedKey[0] ^= 1 },
		"binding":          func(d *api.KeyDelivery) { d.Binding[20] ^= 1 },
		"longer lease":     func(d *api.KeyDelivery) { d.LeaseSeconds *= 1000 },
		"no lease":         func(d *api.KeyDelivery) { d.LeaseSeconds = 0 },
		"no encapsulation": func(d *api.KeyDelivery) { d.EncapsulatedKey = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.image("data.img", imageSize)
			r.enrol()
			r.start()
			id, target := r.encrypted("data.img")
			r.broker.Tampering(tamper)
			q := r.broker.Asked(id, api.KeyPending)
			r.broker.Decide(q.ID, api.KeyApproved, "")
			r.broker.Wait("the agent to ask anew", func() bool { return r.broker.Newest(id).ID != q.ID })
			r.wantMounted(target, false)
			r.stop() // else the broker may be sealing the next delivery in this very process
			r.wantNoKey(0, id)
		})
	}
}
