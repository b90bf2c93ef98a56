package nbdcrypt

import (
	"bytes"
	"crypto/aes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	oracle "golang.org/x/crypto/xts"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/luks2"
)

const stripeSet = "018f9c5e-7a40-7c1c-9d55-3f0a6d1f0a77"

// stripeMember is an opened member and what is under it. Each has a key of its own.
func stripeMember(t testing.TB, set string, index, count int, chunk int64) (*blockdev.Memory, *Volume) {
	t.Helper()
	dev := blockdev.NewMemory(luks2.DataOffset + payload)
	seed := uint64(index + 1)
	rec, err := luks2.Format(dev, luks2.Params{Device: fmt.Sprintf("disk-%d", index), Account: "acc", Broker: "broker", KeyBits: 256,
		RAID: &luks2.RAIDMember{Set: set, Index: index, Count: count, Chunk: chunk}}, newKey(t, 256, seed))
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(dev, rec, newKey(t, 256, seed), Options{AllowDiscard: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return dev, v
}

// What md reads on top of dm-crypt: every chunk where RAID 0 puts it, encrypted under its member's key with that
// member's own sector numbers.
func TestNewStripe_everyMemberIsAVolumeOfItsOwn(t *testing.T) {
	t.Parallel()
	const count, chunk = 3, 65536
	var volumes []*Volume
	var disks []*blockdev.Memory
	for i := range count {
		dev, v := stripeMember(t, stripeSet, i, count, chunk)
		disks, volumes = append(disks, dev), append(volumes, v)
	}
	s, err := NewStripe(volumes)
	if err != nil {
		t.Fatal(err)
	}
	if s.Size() != count*payload || s.BlockSize() != 4096 {
		t.Errorf("size %d, blocks of %d", s.Size(), s.BlockSize())
	}
	plain := make([]byte, s.Size())
	r := rand.New(rand.NewPCG(1, 1))
	for i := range plain {
		plain[i] = byte(r.Uint32())
	}
	if _, err := s.WriteAt(plain, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	for i, disk := range disks {
		c, err := oracle.NewCipher(aes.NewCipher, rawKey(256, uint64(i+1)))
		if err != nil {
			t.Fatal(err)
		}
		image := disk.Snapshot()[luks2.DataOffset:]
		for off := 0; off < payload; off += 4096 {
			c.Decrypt(image[off:off+4096], image[off:off+4096], uint64(off/512))
			chunkOfStripe := off/chunk*count + i
			at := chunkOfStripe*chunk + off%chunk
			if !bytes.Equal(image[off:off+4096], plain[at:at+4096]) {
				t.Fatalf("member %d at %d: the oracle finds something else than the stripe's byte %d", i, off, at)
			}
		}
	}
	// A member that is suspended holds the requests that touch it, and they go on when it has its key again.
	if err := volumes[1].Suspend(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	back := make([]byte, 3*chunk)
	go func() { _, err := s.ReadAt(back, 0); done <- err }()
	select {
	case err := <-done:
		t.Errorf("a request went through a suspended member: %v", err)
	default:
	}
	if err := volumes[1].Resume(newKey(t, 256, 2)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || !bytes.Equal(back, plain[:len(back)]) {
		t.Errorf("after resuming: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for i, v := range volumes {
		if v.Status() != StatusClosed {
			t.Errorf("member %d is %s", i, v.Status())
		}
	}
}

func TestNewStripe_refusesByName(t *testing.T) {
	t.Parallel()
	const chunk = 65536
	_, a := stripeMember(t, stripeSet, 0, 2, chunk)
	_, b := stripeMember(t, stripeSet, 1, 2, chunk)
	_, foreign := stripeMember(t, "018f9c5e-7a40-7c1c-9d55-3f0a6d1f0a78", 1, 2, chunk)
	_, other := stripeMember(t, stripeSet, 1, 2, 2*chunk)
	_, closed := stripeMember(t, stripeSet, 1, 2, chunk)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	dev, rec := fresh(t, 256, 4096)
	alone := open(t, dev, rec, Options{})
	for name, c := range map[string]struct {
		volumes []*Volume
		says    string
	}{
		"none":                {nil, "member 0 is missing"},
		"first missing":       {[]*Volume{nil, b}, "member 0 is missing"},
		"second missing":      {[]*Volume{a, nil}, "member 1 of 2 is missing"},
		"one of two":          {[]*Volume{a}, "1 members of 2"},
		"one too many":        {[]*Volume{a, b, b}, "3 members of 2"},
		"swapped":             {[]*Volume{b, a}, "device disk-1 is member 1 and stands at place 0"},
		"twice":               {[]*Volume{a, a}, "device disk-0 is member 0 and stands at place 1"},
		"of another set":      {[]*Volume{a, foreign}, "device disk-1 at place 1 belongs to stripe 018f9c5e-7a40-7c1c-9d55-3f0a6d1f0a78"},
		"of no set":           {[]*Volume{a, alone}, "device dev at place 1 belongs to no stripe"},
		"of no set, at first": {[]*Volume{alone, b}, "member 0 is missing or no member"},
		"other chunks":        {[]*Volume{a, other}, "device disk-1 says 2 members with chunks of 131072"},
		"closed":              {[]*Volume{a, closed}, "device disk-1: device is closed"},
	} {
		if _, err := NewStripe(c.volumes); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.says)
		}
	}
	if a.Status() != StatusOpen || b.Status() != StatusOpen {
		t.Error("a refused stripe closed its members")
	}
}

// Two disks of one stripe in each other's place are refused when they are opened, by their names.
func TestOpen_refusesAMemberInAnothersPlace(t *testing.T) {
	t.Parallel()
	devA, _ := stripeMember(t, stripeSet, 0, 2, 65536)
	_, b := stripeMember(t, stripeSet, 1, 2, 65536)
	_, err := Open(devA, b.Record(), newKey(t, 256, 2), Options{})
	var mismatch *luks2.MismatchError
	if !errors.As(err, &mismatch) || mismatch.Field != "raid_index" || !strings.Contains(err.Error(), "disk-0") || !strings.Contains(err.Error(), "disk-1") {
		t.Errorf("error %v", err)
	}
}
