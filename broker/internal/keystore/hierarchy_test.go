package keystore

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func newAccount(t testing.TB, root Root, id string) AccountKey {
	t.Helper()
	a, err := NewAccountKey(root, id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func newDevice(t testing.TB, root Root, a AccountKey, id string, bits int) DeviceKey {
	t.Helper()
	d, err := NewDeviceKey(root, a, id, bits, 1)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func open(t testing.TB, root Root, a AccountKey, d DeviceKey) []byte {
	t.Helper()
	k, err := OpenDeviceKey(root, a, d)
	if err != nil {
		t.Fatal(err)
	}
	return k.Bytes()
}

func TestDeviceKey_ofEverySize(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := newAccount(t, root, "acc")
	seen := map[string]bool{}
	for bits, n := range map[int]int{128: 32, 192: 48, 256: 64} {
		for range 3 {
			d := newDevice(t, root, a, "dev", bits)
			key := open(t, root, a, d)
			if len(key) != n || bytes.Equal(key[:n/2], key[n/2:]) || seen[string(key)] {
				t.Errorf("%d bits: %d bytes, repeated %v", bits, len(key), seen[string(key)])
			}
			seen[string(key)] = true
			if bytes.Contains(d.Wrapped, key[:16]) {
				t.Error("the wrapped key holds the plain one")
			}
		}
	}
	if _, err := NewDeviceKey(root, a, "dev", 512, 1); err == nil {
		t.Error("512 bits accepted")
	}
	if _, err := NewDeviceKey(root, a, "", 256, 1); err == nil {
		t.Error("a key without a device was made")
	}
}

func TestWrapping_rowsCannotBeExchanged(t *testing.T) {
	t.Parallel()
	root, otherRoot := testRoot(t, 1), testRoot(t, 2)
	a, b := newAccount(t, root, "account-a"), newAccount(t, root, "account-b")
	da, db := newDevice(t, root, a, "device-1", 256), newDevice(t, root, b, "device-1", 256)
	second := newDevice(t, root, a, "device-2", 256)
	for name, c := range map[string]struct {
		root Root
		a    AccountKey
		d    DeviceKey
	}{
		"another tenant's wrapped key in this row": {root, a, with(da, func(d *DeviceKey) { d.Wrapped = db.Wrapped })},
		"another tenant's whole row":               {root, a, db},
		"that row under this account's name":       {root, a, with(db, func(d *DeviceKey) { d.AccountID = a.AccountID })},
		"another device's key":                     {root, a, with(da, func(d *DeviceKey) { d.Wrapped = second.Wrapped })},
		"renamed device":                           {root, a, with(da, func(d *DeviceKey) { d.DeviceID = "device-2" })},
		"another generation":                       {root, a, with(da, func(d *DeviceKey) { d.Generation = 2 })},
		"another size":                             {root, a, with(da, func(d *DeviceKey) { d.Bits = 128 })},
		"another tenant's account key":             {root, withAccount(a, func(a *AccountKey) { a.Wrapped = b.Wrapped }), da},
		"renamed account": {root, withAccount(a, func(a *AccountKey) { a.AccountID = "account-b" }),
			with(da, func(d *DeviceKey) { d.AccountID = "account-b" })},
		"another account generation": {root, withAccount(a, func(a *AccountKey) { a.Generation = 2 }), da},
		"another root key":           {otherRoot, a, da},
		"another root key, renamed":  {otherRoot, withAccount(a, func(a *AccountKey) { a.RootKeyID = otherRoot.ID() }), da},
		"nothing wrapped":            {root, a, with(da, func(d *DeviceKey) { d.Wrapped = nil })},
	} {
		if k, err := OpenDeviceKey(c.root, c.a, c.d); !errors.Is(err, ErrUnwrap) || k.Len() != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func with(d DeviceKey, change func(*DeviceKey)) DeviceKey { change(&d); return d }

func withAccount(a AccountKey, change func(*AccountKey)) AccountKey { change(&a); return a }

func TestWrapping_everyChangedBitAndEveryCutIsNoticed(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := newAccount(t, root, "acc")
	d := newDevice(t, root, a, "dev", 128)
	for i := range len(d.Wrapped) * 8 {
		bad := with(d, func(d *DeviceKey) { d.Wrapped = slices.Clone(d.Wrapped); d.Wrapped[i/8] ^= 1 << (i % 8) })
		if _, err := OpenDeviceKey(root, a, bad); !errors.Is(err, ErrUnwrap) {
			t.Fatalf("bit %d: %v", i, err)
		}
	}
	for n := range d.Wrapped {
		bad := with(d, func(d *DeviceKey) { d.Wrapped = d.Wrapped[:n] })
		if _, err := OpenDeviceKey(root, a, bad); !errors.Is(err, ErrUnwrap) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := OpenDeviceKey(root, a, with(d, func(d *DeviceKey) { d.Wrapped = append(slices.Clone(d.Wrapped), 0) })); !errors.Is(err, ErrUnwrap) {
		t.Errorf("a byte more: %v", err)
	}
}

func TestAAD_differentIdentitiesNeverEncodeAlike(t *testing.T) {
	t.Parallel()
	fields := rapid.SliceOfN(rapid.StringMatching(`[a|\x00]{0,3}`), 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		a, b := fields.Draw(t, "a"), fields.Draw(t, "b")
		if bytes.Equal(aad("d", a...), aad("d", b...)) != slices.Equal(a, b) {
			t.Fatalf("%q and %q", a, b)
		}
	})
}

func TestRotation_ofTheRootKeepsEveryVolumeKey(t *testing.T) {
	t.Parallel()
	old, next := testRoot(t, 1), testRoot(t, 2)
	a := newAccount(t, old, "acc")
	d := newDevice(t, old, a, "dev", 256)
	before := open(t, old, a, d)
	moved, err := RewrapAccountKey(old, next, a)
	if err != nil {
		t.Fatal(err)
	}
	if moved.RootKeyID != next.ID() || moved.Generation != a.Generation || !bytes.Equal(open(t, next, moved, d), before) {
		t.Errorf("moved %+v", moved)
	}
	if _, err := OpenDeviceKey(old, moved, d); !errors.Is(err, ErrUnwrap) {
		t.Errorf("the old root still opens: %v", err)
	}
	if _, err := RewrapAccountKey(next, old, a); !errors.Is(err, ErrUnwrap) {
		t.Errorf("rotated from a root that never wrapped it: %v", err)
	}
}

func TestRotation_ofTheAccountKeyKeepsEveryVolumeKey(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := newAccount(t, root, "acc")
	d := newDevice(t, root, a, "dev", 192)
	before := open(t, root, a, d)
	next, err := NextAccountKey(root, a)
	if err != nil || next.Generation != 2 {
		t.Fatalf("%+v, %v", next, err)
	}
	if !bytes.Equal(open(t, root, next, d), before) {
		t.Error("a key that is not rewrapped yet opens to another one")
	}
	if d.AccountGeneration = 0; !bytes.Equal(open(t, root, next, d), before) {
		t.Error("a key whose row does not say which key wraps it opens to another one")
	}
	moved, err := RewrapDeviceKey(root, next, d)
	if err != nil || moved.AccountGeneration != 2 || !bytes.Equal(open(t, root, next, moved), before) {
		t.Fatalf("%v", err)
	}
	if _, err := OpenDeviceKey(root, a, moved); !errors.Is(err, ErrUnwrap) {
		t.Errorf("the old account key still opens: %v", err)
	}
	next.Earlier = nil
	if _, err := OpenDeviceKey(root, next, d); !errors.Is(err, ErrUnwrap) {
		t.Errorf("a key of a generation that is gone opens: %v", err)
	}
	if _, err := RewrapDeviceKey(root, newAccount(t, root, "other"), d); err == nil {
		t.Error("a key was moved to another tenant")
	}
}

func TestClone_sharesTheVolumeKeyInARowOfItsOwn(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a := newAccount(t, root, "acc")
	source := newDevice(t, root, a, "dev", 256)
	key, err := OpenDeviceKey(root, a, source)
	if err != nil {
		t.Fatal(err)
	}
	clone, err := WrapDeviceKey(root, a, DeviceKey{AccountID: "acc", DeviceID: "clone", Bits: 256, Generation: 1}, key)
	if err != nil || !bytes.Equal(open(t, root, a, clone), key.Bytes()) {
		t.Fatal(err)
	}
	if _, err := WrapDeviceKey(root, a, DeviceKey{AccountID: "acc", DeviceID: "clone", Bits: 128, Generation: 1}, key); err == nil {
		t.Error("a key of another size was taken")
	}
}

func FuzzUnwrap(f *testing.F) {
	kek := KeyOf(bytes.Repeat([]byte{9}, 32))
	// Made by wrap once: fuzzing runs in several processes, and each must know the same one.
	good, err := hex.DecodeString("0140661dcf0b7bdff75df008086aad8482e1009c0efa43993349b04cb6a105168d3733c700b810")
	if err != nil {
		f.Fatal(err)
	}
	if k, err := unwrap(kek, []byte("row"), good); err != nil || string(k.Bytes()) != "volume key" {
		f.Fatalf("version 1 does not open any more: %v", err)
	}
	f.Add(good, []byte("row"))
	f.Add(good[:30], []byte("row"))
	f.Add([]byte{1}, []byte{})
	f.Fuzz(func(t *testing.T, wrapped, aad []byte) {
		k, err := unwrap(kek, aad, wrapped)
		if err == nil && !(bytes.Equal(wrapped, good) && string(aad) == "row") {
			t.Fatalf("opened %x with %q: %d bytes", wrapped, aad, k.Len())
		}
	})
}
