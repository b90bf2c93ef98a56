package keystore

import (
	"bytes"
	"errors"
	"testing"

	"keyward/broker/api"
	"keyward/broker/client"
)

func TestSealFor_opensOnlyOnTheMachineThatAsked(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := newAccount(t, root, "acc")
	for _, bits := range []int{128, 192, 256} {
		d := newDevice(t, root, a, "dev", bits)
		want := open(t, root, a, d)
		mine, err := client.NewDeliveryKey()
		if err != nil {
			t.Fatal(err)
		}
		other, err := client.NewDeliveryKey()
		if err != nil {
			t.Fatal(err)
		}
		b := api.DeliveryBinding{Purpose: PurposeKeyRequest, AccountID: "acc", RequestID: "req", DeviceID: "dev", InstanceID: "ins", Nonce: "n", LeaseSeconds: 30}
		sealed, err := SealFor(root, mine.PublicKey(), b, a, []DeviceKey{d}, api.VolumeRecord{KeyBits: bits, Device: "dev"}, api.AssignedDevice{ID: "dev", MountPoint: "/mnt/a"})
		if err != nil {
			t.Fatal(err)
		}
		if sealed.Volume.Device != "dev" {
			t.Errorf("the delivery has the volume record %+v", sealed.Volume)
		}
		if got, err := mine.Open(sealed, b); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bits: %v", bits, err)
		}
		if _, err := other.Open(sealed, b); !errors.Is(err, client.ErrDelivery) {
			t.Errorf("%d bits: another machine's key opened it: %v", bits, err)
		}
		sealed.Volume.Device = "other"
		if _, err := mine.Open(sealed, b); !errors.Is(err, client.ErrDelivery) {
			t.Errorf("%d bits: it opened with another volume record: %v", bits, err)
		}
		sealed.Volume.Device, sealed.Device.MountPoint = "dev", "/etc"
		if _, err := mine.Open(sealed, b); !errors.Is(err, client.ErrDelivery) {
			t.Errorf("%d bits: it opened with another mount point: %v", bits, err)
		}
		if bytes.Contains(sealed.SealedKey, want[:16]) || sealed.LeaseSeconds != 30 {
			t.Errorf("%d bits: sealed %x", bits, sealed.SealedKey)
		}
	}
}

func TestSealFor_refusesAnUnboundDelivery(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := newAccount(t, root, "acc")
	d := newDevice(t, root, a, "dev", 256)
	key, err := client.NewDeliveryKey()
	if err != nil {
		t.Fatal(err)
	}
	good := api.DeliveryBinding{Purpose: PurposeEncryptJob, AccountID: "acc", RequestID: "job", DeviceID: "dev", InstanceID: "ins", Nonce: "n", LeaseSeconds: 30}
	if _, err := SealFor(root, key.PublicKey(), good, a, []DeviceKey{d}, api.VolumeRecord{}, api.AssignedDevice{}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*api.DeliveryBinding){
		"no purpose":      func(b *api.DeliveryBinding) { b.Purpose = "" },
		"another purpose": func(b *api.DeliveryBinding) { b.Purpose = "export" },
		"another account": func(b *api.DeliveryBinding) { b.AccountID = "other" },
		"another device":  func(b *api.DeliveryBinding) { b.DeviceID = "other" },
		"no request":      func(b *api.DeliveryBinding) { b.RequestID = "" },
		"no instance":     func(b *api.DeliveryBinding) { b.InstanceID = "" },
		"no nonce":        func(b *api.DeliveryBinding) { b.Nonce = "" },
		"no lease":        func(b *api.DeliveryBinding) { b.LeaseSeconds = 0 },
		"negative lease":  func(b *api.DeliveryBinding) { b.LeaseSeconds = -1 },
	} {
		b := good
		change(&b)
		if _, err := SealFor(root, key.PublicKey(), b, a, []DeviceKey{d}, api.VolumeRecord{}, api.AssignedDevice{}); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
}

// The keys of a RAID set are sealed together, in the order of its members, or not at all.
func TestSealFor_membersOfARAIDSet(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := newAccount(t, root, "acc")
	one, two, three := newDevice(t, root, a, "dev", 256), newDevice(t, root, a, "dev2", 256), newDevice(t, root, a, "dev3", 256)
	private, err := client.NewDeliveryKey()
	if err != nil {
		t.Fatal(err)
	}
	b := api.DeliveryBinding{Purpose: PurposeEncryptJob, AccountID: "acc", RequestID: "job", DeviceID: "dev", InstanceID: "ins", Nonce: "n", LeaseSeconds: 30}
	set := api.AssignedDevice{ID: "dev", KeyBits: 256, Set: &api.AssignedSet{ID: "s", Name: "stripe", Members: []api.AssignedMember{{ID: "dev"}, {ID: "dev2"}}}}
	d, err := SealFor(root, private.PublicKey(), b, a, []DeviceKey{one, two}, api.VolumeRecord{}, set)
	if err != nil {
		t.Fatal(err)
	}
	got, err := private.Open(d, b)
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for _, k := range []DeviceKey{one, two} {
		plain, err := OpenDeviceKey(root, a, k)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, plain.Bytes()...)
	}
	if !bytes.Equal(got, want) {
		t.Error("the members' keys are not delivered in their order")
	}
	for name, keys := range map[string][]DeviceKey{"none": nil, "a part": {one}, "exchanged": {two, one}, "another device's": {one, three}, "one too many": {one, two, three}} {
		if _, err := SealFor(root, private.PublicKey(), b, a, keys, api.VolumeRecord{}, set); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
	if _, err := SealFor(root, private.PublicKey(), b, a, []DeviceKey{one, two}, api.VolumeRecord{}, api.AssignedDevice{ID: "dev"}); err == nil {
		t.Error("two keys for a device that stands alone: sealed")
	}
}

func TestSealFor_publicKeysAreChecked(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := newAccount(t, root, "acc")
	d := newDevice(t, root, a, "dev", 256)
	key, err := client.NewDeliveryKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckPublicKey(key.PublicKey()); err != nil {
		t.Fatal(err)
	}
	b := api.DeliveryBinding{Purpose: PurposeKeyRequest, AccountID: "acc", RequestID: "r", DeviceID: "dev", InstanceID: "i", Nonce: "n", LeaseSeconds: 1}
	unreduced := bytes.Repeat([]byte{0xff}, len(key.PublicKey())) // ML-KEM coefficients beyond the modulus (FIPS 203, 7.2)
	for name, public := range map[string][]byte{"empty": nil, "short": key.PublicKey()[1:], "long": append(key.PublicKey(), 0), "unreduced": unreduced} {
		if err := CheckPublicKey(public); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := SealFor(root, public, b, a, []DeviceKey{d}, api.VolumeRecord{}, api.AssignedDevice{}); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%s: sealed: %v", name, err)
		}
	}
}

// A transaction that is run again seals again, to the same public key and never under the same encapsulation.
func TestSealer_sealsAgain(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	account := newAccount(t, root, "acc")
	device := newDevice(t, root, account, "device", 256)
	private, err := client.NewDeliveryKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, made := range map[string]func([]byte) (*Sealer, error){"encapsulated before": NewSealer, "only read before": ParseSealer} {
		s, err := made(private.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		binding := api.DeliveryBinding{Purpose: PurposeKeyRequest, AccountID: account.AccountID, RequestID: "r", DeviceID: "device", InstanceID: "i", Nonce: "n", LeaseSeconds: 60}
		seen := map[string]bool{}
		for range 3 {
			d, err := s.Seal(root, binding, account, []DeviceKey{device}, api.VolumeRecord{Cipher: api.CipherXTS, KeyBits: 256}, api.AssignedDevice{})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := private.Open(d, binding); err != nil || seen[string(d.EncapsulatedKey)] {
				t.Errorf("%s: %v, the encapsulation was used before: %v", name, err, seen[string(d.EncapsulatedKey)])
			}
			seen[string(d.EncapsulatedKey)] = true
		}
	}
}
