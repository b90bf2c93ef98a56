package client

import (
	"bytes"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"keyward/broker/api"
)

var wanted = api.DeliveryBinding{Purpose: "key-request", AccountID: "acc", RequestID: "req", DeviceID: "dev", InstanceID: "ins", Nonce: "nonce", LeaseSeconds: 60,
	VolumeSHA256: emptyVolume, DeviceSHA256: emptyDevice}

// emptyVolume is the SHA-256 of the JSON of an empty volume record. It changes when a member is added without omitempty,
// and then agents of the last release refuse every delivery.
const emptyVolume = "6471f0f6402ade67b09adefae5c6357189ba0da78b4b5a80724ed9a546e323e3"

// emptyDevice is that of an empty device, for which the same holds.
const emptyDevice = "bef6a97d27a81fa822f05dda9ec94251bd9627b97d2ca631dabbf400b94435e2"

// seal makes a delivery with nothing but the standard library, as a broker does.
func seal(t testing.TB, public, binding, key []byte, info string) api.KeyDelivery {
	t.Helper()
	kem, kdf, aead := DeliverySuite()
	pk, err := kem.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	enc, sender, err := hpke.NewSender(pk, kdf, aead, []byte(info))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sender.Seal(binding, key)
	if err != nil {
		t.Fatal(err)
	}
	return api.KeyDelivery{Binding: binding, EncapsulatedKey: enc, SealedKey: sealed, LeaseSeconds: wanted.LeaseSeconds}
}

func bindingOf(t testing.TB, b api.DeliveryBinding) []byte {
	t.Helper()
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func newDeliveryKey(t testing.TB) *DeliveryKey {
	t.Helper()
	k, err := NewDeliveryKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must(t testing.TB, v api.VolumeRecord) string {
	t.Helper()
	sum, err := VolumeSHA256(v)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// A delivery's key belongs to the volume record beside it: with another cipher, offset, size or digest it does not open.
func TestDeliveryKey_refusesAnotherVolumeRecord(t *testing.T) {
	t.Parallel()
	k, volumeKey := newDeliveryKey(t), bytes.Repeat([]byte{5}, 64)
	record := api.VolumeRecord{UUID: "u", Cipher: "aes-xts-plain64", KeyBits: 256, SectorSize: 4096, DataOffset: 16 << 20, DataSize: 1 << 30,
		DigestSalt: []byte{1}, Digest: []byte{2}, DigestIterations: 1000, Epoch: 1, HeaderHash: []byte{3}, Broker: "b", Account: "acc", Device: "dev",
		RAID: &api.RAIDMember{Set: "s", Count: 2, Chunk: 65536}}
	bound := wanted
	bound.VolumeSHA256 = must(t, record)
	d := seal(t, k.PublicKey(), bindingOf(t, bound), volumeKey, api.HPKEInfo)
	d.Volume = record
	// What the agent gets went over the wire.
	wire, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var arrived api.KeyDelivery
	if err := json.Unmarshal(wire, &arrived); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open(arrived, wanted); err != nil {
		t.Fatalf("the record that the key is bound to: %v", err)
	}
	fields := reflect.ValueOf(&arrived.Volume).Elem()
	for i := range fields.NumField() {
		d := arrived
		f := reflect.ValueOf(&d.Volume).Elem().Field(i)
		f.Set(reflect.Zero(f.Type()))
		if _, err := k.Open(d, wanted); !errors.Is(err, ErrDelivery) || !strings.Contains(err.Error(), "volume record") {
			t.Errorf("another %s: %v", fields.Type().Field(i).Name, err)
		}
	}
	// An older broker's binding says nothing of the record.
	bound.VolumeSHA256 = ""
	d = seal(t, k.PublicKey(), bindingOf(t, bound), volumeKey, api.HPKEInfo)
	d.Volume = record
	if _, err := k.Open(d, wanted); !errors.Is(err, ErrDelivery) {
		t.Errorf("a binding without a record: %v", err)
	}
}

// Who carries a delivery cannot have the volume mounted elsewhere, or read-write.
func TestDeliveryKey_refusesAnotherDevice(t *testing.T) {
	t.Parallel()
	k, volumeKey := newDeliveryKey(t), bytes.Repeat([]byte{5}, 128)
	device := api.AssignedDevice{ID: "dev", Identity: "i", Name: "n", Status: api.DeviceEncrypted, FileSystem: "ext4", MountPoint: "/mnt/a",
		Access: api.AccessReadOnly, KeyBits: 256, Volume: &api.VolumeRecord{UUID: "u"}, Writers: 3, SetID: "s",
		Set: &api.AssignedSet{ID: "s", Name: "stripe", Chunk: 65536, Members: []api.AssignedMember{{ID: "dev", Identity: "i", Name: "n"}, {ID: "dev2", Identity: "i2", Name: "n2"}}}}
	bound := wanted
	var err error
	if bound.DeviceSHA256, err = DeviceSHA256(device); err != nil {
		t.Fatal(err)
	}
	good := seal(t, k.PublicKey(), bindingOf(t, bound), volumeKey, api.HPKEInfo)
	good.Device = device
	if _, err := k.Open(good, wanted); err != nil {
		t.Fatalf("the device that the key is bound to: %v", err)
	}
	fields := reflect.ValueOf(&good.Device).Elem()
	for i := range fields.NumField() {
		d := good
		f := reflect.ValueOf(&d.Device).Elem().Field(i)
		f.Set(reflect.Zero(f.Type()))
		if _, err := k.Open(d, wanted); !errors.Is(err, ErrDelivery) || !strings.Contains(err.Error(), "its device") {
			t.Errorf("another %s: %v", fields.Type().Field(i).Name, err)
		}
	}
	// The first version of the protocol bound no device.
	bound.DeviceSHA256 = ""
	old := seal(t, k.PublicKey(), bindingOf(t, bound), volumeKey, api.HPKEInfo)
	if _, err := k.Open(old, wanted); !errors.Is(err, ErrDelivery) {
		t.Errorf("a binding without a device: %v", err)
	}
}

func TestDeliveryKey_opensWhatWasSealedToIt(t *testing.T) {
	t.Parallel()
	for _, n := range []int{32, 48, 64} {
		k, volumeKey := newDeliveryKey(t), bytes.Repeat([]byte{5}, n)
		bound := wanted
		bound.VolumeSHA256 = must(t, api.VolumeRecord{KeyBits: n * 4, Broker: "https://b.example?<&>"})
		d := seal(t, k.PublicKey(), bindingOf(t, bound), volumeKey, api.HPKEInfo)
		d.Volume.KeyBits, d.Volume.Broker = n*4, "https://b.example?<&>"
		for range 2 { // a second time, after an answer that was lost
			if got, err := k.Open(d, wanted); err != nil || !bytes.Equal(got, volumeKey) {
				t.Fatalf("%d bytes: %x, %v", n, got, err)
			}
		}
		anyLease := wanted
		anyLease.LeaseSeconds = 0
		if _, err := k.Open(d, anyLease); err != nil {
			t.Errorf("without a lease to compare: %v", err)
		}
	}
}

func TestDeliveryKey_refusesADeliveryBoundToAnythingElse(t *testing.T) {
	t.Parallel()
	k, volumeKey := newDeliveryKey(t), bytes.Repeat([]byte{5}, 64)
	fields := map[string]func(*api.DeliveryBinding) *string{
		"purpose":  func(b *api.DeliveryBinding) *string { return &b.Purpose },
		"account":  func(b *api.DeliveryBinding) *string { return &b.AccountID },
		"request":  func(b *api.DeliveryBinding) *string { return &b.RequestID },
		"device":   func(b *api.DeliveryBinding) *string { return &b.DeviceID },
		"instance": func(b *api.DeliveryBinding) *string { return &b.InstanceID },
		"nonce":    func(b *api.DeliveryBinding) *string { return &b.Nonce },
	}
	for name, field := range fields {
		b := wanted
		*field(&b) = "other"
		d := seal(t, k.PublicKey(), bindingOf(t, b), volumeKey, api.HPKEInfo)
		if _, err := k.Open(d, wanted); !errors.Is(err, ErrDelivery) || !strings.Contains(err.Error(), name) {
			t.Errorf("sealed for another %s: %v", name, err)
		}
		// The binding was exchanged for the wanted one afterwards: the seal does not hold.
		d.Binding = bindingOf(t, wanted)
		if _, err := k.Open(d, wanted); !errors.Is(err, ErrDelivery) {
			t.Errorf("relabelled %s: %v", name, err)
		}
		*field(&b) = ""
		if _, err := k.Open(seal(t, k.PublicKey(), bindingOf(t, b), volumeKey, api.HPKEInfo), b); !errors.Is(err, ErrDelivery) {
			t.Errorf("no %s was wanted: %v", name, err)
		}
	}
	longer := wanted
	longer.LeaseSeconds++
	d := seal(t, k.PublicKey(), bindingOf(t, longer), volumeKey, api.HPKEInfo)
	d.LeaseSeconds = longer.LeaseSeconds
	if _, err := k.Open(d, wanted); !errors.Is(err, ErrDelivery) || !strings.Contains(err.Error(), "lease") {
		t.Errorf("sealed for another lease: %v", err)
	}
}

func TestDeliveryKey_refusesWhatWasChanged(t *testing.T) {
	t.Parallel()
	k, volumeKey := newDeliveryKey(t), bytes.Repeat([]byte{5}, 64)
	canonical := bindingOf(t, wanted)
	good := func() api.KeyDelivery { return seal(t, k.PublicKey(), bytes.Clone(canonical), volumeKey, api.HPKEInfo) }
	for name, delivery := range map[string]func() api.KeyDelivery{
		"another key": func() api.KeyDelivery {
			return seal(t, newDeliveryKey(t).PublicKey(), canonical, volumeKey, api.HPKEInfo)
		},
		"another info": func() api.KeyDelivery { return seal(t, k.PublicKey(), canonical, volumeKey, "keyward key delivery v0") },
		"short key":    func() api.KeyDelivery { return seal(t, k.PublicKey(), canonical, volumeKey[:16], api.HPKEInfo) },
		"long key":     func() api.KeyDelivery { return seal(t, k.PublicKey(), canonical, make([]byte, 1<<20), api.HPKEInfo) },
		"no binding":   func() api.KeyDelivery { d := good(); d.Binding = nil; return d },
		"long binding": func() api.KeyDelivery { d := good(); d.Binding = bytes.Repeat([]byte(" "), 1<<20); return d },
		"white space": func() api.KeyDelivery {
			return seal(t, k.PublicKey(), append([]byte(" "), canonical...), volumeKey, api.HPKEInfo)
		},
		"double field": func() api.KeyDelivery {
			return seal(t, k.PublicKey(), bytes.Replace(canonical, []byte(`{`), []byte(`{"device_id":"evil",`), 1), volumeKey, api.HPKEInfo)
		},
		"more fields": func() api.KeyDelivery {
			return seal(t, k.PublicKey(), bytes.Replace(canonical, []byte(`{`), []byte(`{"x":1,`), 1), volumeKey, api.HPKEInfo)
		},
		"lease beside":  func() api.KeyDelivery { d := good(); d.LeaseSeconds = 1 << 40; return d },
		"key bits":      func() api.KeyDelivery { d := good(); d.Volume.KeyBits = 128; return d },
		"short encaps.": func() api.KeyDelivery { d := good(); d.EncapsulatedKey = d.EncapsulatedKey[:1119]; return d },
		"encapsulation": func() api.KeyDelivery { d := good(); d.EncapsulatedKey[700] ^= 1; return d },
		"sealed key":    func() api.KeyDelivery { d := good(); d.SealedKey[3] ^= 1; return d },
		"nothing":       func() api.KeyDelivery { return api.KeyDelivery{} },
	} {
		if key, err := k.Open(delivery(), wanted); !errors.Is(err, ErrDelivery) || key != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := k.Open(good(), wanted); err != nil {
		t.Errorf("the unchanged delivery is refused: %v", err)
	}
	zero := wanted
	zero.LeaseSeconds = 0
	d := seal(t, k.PublicKey(), bindingOf(t, zero), volumeKey, api.HPKEInfo)
	d.LeaseSeconds = 0
	if _, err := k.Open(d, zero); !errors.Is(err, ErrDelivery) {
		t.Errorf("a lease without end: %v", err)
	}
}

func TestDeliveryKey_isNeverPrinted(t *testing.T) {
	t.Parallel()
	k := newDeliveryKey(t)
	private, err := k.private.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, text := range []string{fmt.Sprintf(verb, k), fmt.Sprintf(verb, struct{ K *DeliveryKey }{k})} {
			if strings.Contains(text, fmt.Sprintf("%x", private[:8])) || strings.Contains(text, strings.Trim(fmt.Sprint(private[:8]), "[]")) {
				t.Errorf("%s shows the key: %s", verb, text)
			}
		}
	}
}

func FuzzDeliveryOpen(f *testing.F) {
	k := newDeliveryKey(f)
	good := seal(f, k.PublicKey(), bindingOf(f, wanted), bytes.Repeat([]byte{5}, 64), api.HPKEInfo)
	f.Add(good.Binding, good.EncapsulatedKey, good.SealedKey, good.LeaseSeconds)
	f.Add([]byte(`{}`), good.EncapsulatedKey[:100], []byte{}, int64(0))
	f.Add(good.Binding, bytes.Repeat([]byte{0xff}, 1120), good.SealedKey, int64(60))
	f.Fuzz(func(t *testing.T, binding, encapsulated, sealed []byte, lease int64) {
		_, err := k.Open(api.KeyDelivery{Binding: binding, EncapsulatedKey: encapsulated, SealedKey: sealed, LeaseSeconds: lease}, wanted)
		same := bytes.Equal(binding, good.Binding) && bytes.Equal(encapsulated, good.EncapsulatedKey) && bytes.Equal(sealed, good.SealedKey) && lease == good.LeaseSeconds
		if (err == nil) != same {
			t.Fatalf("opened %v, the delivery is the one that was made: %v", err == nil, same)
		}
	})
}

// The keys of a RAID set come together, bound to all members in their places: with one of them missing, exchanged or another
// disk's, nothing opens.
func TestDeliveryKey_opensAWholeRAIDSetOrNothing(t *testing.T) {
	t.Parallel()
	k, keys := newDeliveryKey(t), append(bytes.Repeat([]byte{5}, 64), bytes.Repeat([]byte{6}, 64)...)
	record := func(id string, index int) *api.VolumeRecord {
		return &api.VolumeRecord{UUID: "u-" + id, Cipher: api.CipherXTS, KeyBits: 256, Device: id, RAID: &api.RAIDMember{Set: "s", Index: index, Count: 2, Chunk: 65536}}
	}
	whole := func() api.AssignedDevice {
		return api.AssignedDevice{ID: "dev", KeyBits: 256, SetID: "s", Set: &api.AssignedSet{ID: "s", Name: "stripe", Chunk: 65536,
			Members: []api.AssignedMember{{ID: "dev", Identity: "i", Volume: record("dev", 0)}, {ID: "dev2", Identity: "i2", Volume: record("dev2", 1)}}}}
	}
	sealed := func(device api.AssignedDevice, keys []byte) api.KeyDelivery {
		t.Helper()
		bound, volume := wanted, *record("dev", 0)
		var err error
		if bound.VolumeSHA256 = must(t, volume); err == nil {
			bound.DeviceSHA256, err = DeviceSHA256(device)
		}
		if err != nil {
			t.Fatal(err)
		}
		d := seal(t, k.PublicKey(), bindingOf(t, bound), keys, api.HPKEInfo)
		d.Volume, d.Device = volume, device
		return d
	}
	if got, err := k.Open(sealed(whole(), keys), wanted); err != nil || !bytes.Equal(got, keys) {
		t.Fatalf("the whole set: %d bytes, %v", len(got), err)
	}
	// What is changed on the way.
	for name, change := range map[string]func(s *api.AssignedSet){
		"a member removed":        func(s *api.AssignedSet) { s.Members = s.Members[:1] },
		"members exchanged":       func(s *api.AssignedSet) { s.Members[0], s.Members[1] = s.Members[1], s.Members[0] },
		"another disk":            func(s *api.AssignedSet) { s.Members[1].Identity = "i3" },
		"another member's record": func(s *api.AssignedSet) { s.Members[1].Volume.UUID = "u3" },
		"another chunk":           func(s *api.AssignedSet) { s.Chunk = 4096 },
	} {
		d := sealed(whole(), keys)
		changed := whole()
		change(changed.Set)
		d.Device = changed
		if _, err := k.Open(d, wanted); !errors.Is(err, ErrDelivery) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What no broker sends, though it is sealed properly.
	for name, c := range map[string]struct {
		change func(s *api.AssignedSet)
		keys   []byte
	}{
		"one key for two members":    {func(*api.AssignedSet) {}, keys[:64]},
		"three keys":                 {func(*api.AssignedSet) {}, append(bytes.Clone(keys), keys[:64]...)},
		"one member":                 {func(s *api.AssignedSet) { s.Members = s.Members[:1] }, keys[:64]},
		"a member without a record":  {func(s *api.AssignedSet) { s.Members[1].Volume = nil }, keys},
		"another device first":       {func(s *api.AssignedSet) { s.Members[0].ID = "dev3" }, keys},
		"a member of unknown cipher": {func(s *api.AssignedSet) { s.Members[1].Volume.Cipher = "null" }, keys},
		"too many members":           {func(s *api.AssignedSet) { s.Members = append(s.Members, make([]api.AssignedMember, 63)...) }, keys},
	} {
		device := whole()
		c.change(device.Set)
		if _, err := k.Open(sealed(device, c.keys), wanted); !errors.Is(err, ErrDelivery) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever a broker says of a RAID set's members, a machine expects as many keys as there are members, each of a length that
// a volume key has.
func FuzzMemberKeyBytes(f *testing.F) {
	for _, device := range []string{
		`{}`, `{"id":"a","key_bits":256}`, `{"id":"a","key_bits":256,"set":{"members":[{"id":"a"},{"id":"b"}]}}`,
		`{"id":"a","set":{"members":[{"id":"a","volume":{"cipher":"aes-xts-plain64","key_bits":128}},{"id":"b","volume":{"cipher":"aes-cbc-essiv:sha256","key_bits":192}}]}}`,
		`{"id":"a","set":{"members":[{"id":"a"}]}}`, `{"id":"a","set":{}}`,
	} {
		f.Add([]byte(device), 0, "")
		f.Add([]byte(device), 256, api.CipherXTS)
	}
	f.Fuzz(func(t *testing.T, device []byte, bits int, cipher string) {
		var d api.AssignedDevice
		if json.Unmarshal(device, &d) != nil {
			return
		}
		lengths, err := MemberKeyBytes(d, api.VolumeRecord{KeyBits: bits, Cipher: cipher})
		if err != nil {
			return
		}
		want := 1
		if d.Set != nil {
			want = len(d.Set.Members)
		}
		if len(lengths) != want || want > maxMembers {
			t.Fatalf("%d keys for %d members", len(lengths), want)
		}
		for _, n := range lengths {
			if n < minVolumeKey || n > maxVolumeKey {
				t.Fatalf("a key of %d bytes", n)
			}
		}
	})
}
