package inventory

import (
	"maps"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"keyward/broker/api"
)

func has(effects []Effect, kind string) bool { return slices.Contains(effects, Effect{Kind: kind}) }

// Walks of any length: a key is destroyed only by a word that says so, an encrypted device stays encrypted until then
// whatever the inventory says, and a lost device always knows what it returns to.
func TestMachines_noPathLosesAKeyUnasked(t *testing.T) {
	t.Parallel()
	for name, m := range map[string]struct {
		apply func(State, Event, Ctx) (Result, error)
		lost  api.DeviceStatus
	}{
		"device": {Apply, api.DeviceUndetected},
		"RAID":   {ApplyRAID, api.DeviceMissing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keyed := 0
			all := slices.Sorted(maps.Keys(raidHelp))
			rapid.Check(t, func(t *rapid.T) {
				var s State
				hasKey, pending := false, false
				for range rapid.IntRange(1, 40).Draw(t, "steps") {
					// True more often than not, or walks would hardly get past the guards.
					flag := func(label string) bool {
						return rapid.SampledFrom([]bool{true, true, true, true, false}).Draw(t, label)
					}
					c := Ctx{NotRoot: flag("not root"), Complete: flag("complete"), Empty: flag("empty"), Destroy: flag("destroy"), Single: flag("single"),
						KeyIn: flag("key in"), NoKey: !hasKey, SourceHasKey: flag("source"), LastMount: flag("last"), Members: flag("members"), AllMembers: flag("all"),
						NoRotation: !pending, RotationQueued: pending}
					choices := slices.Clone(all)
					if flag("possible") {
						choices = slices.DeleteFunc(choices, func(e Event) bool { _, err := m.apply(s, e, c); return err != nil })
					}
					if len(choices) == 0 {
						continue
					}
					e := rapid.SampledFrom(choices).Draw(t, "event")
					res, err := m.apply(s, e, c)
					if err != nil {
						continue
					}
					next := res.Next
					if destroys := has(res.Effects, EffectDestroyKey); destroys && hasKey && (!c.Destroy || !c.KeyIn) {
						t.Fatalf("%s in %v destroys the key with %+v", e, s, c)
					} else if destroys {
						hasKey = false
					}
					if e == EncryptAsked && !c.Destroy && !c.Empty {
						t.Fatalf("%s overwrites what the device holds", e)
					}
					if has(res.Effects, EffectNewKey) || has(res.Effects, EffectTakeKey) || has(res.Effects, EffectCopyKey) {
						hasKey, keyed = true, keyed+1
					}
					if (has(res.Effects, EffectPendKey) || has(res.Effects, EffectDropPending)) && (!hasKey || res.Next != s) {
						t.Fatalf("%s in %v changes more than the key that waits", e, s)
					}
					if has(res.Effects, EffectPendKey) {
						pending = true
					} else if has(res.Effects, EffectDropPending) || has(res.Effects, EffectDestroyKey) {
						pending = false
					}
					encrypted := func(s State) bool {
						return s.Status == api.DeviceEncrypted || s.Status == api.DeviceInUse || s.Former == api.DeviceEncrypted
					}
					if encrypted(next) && !hasKey {
						t.Fatalf("%s leads from %v to %v without a key", e, s, next)
					}
					if encrypted(s) && !encrypted(next) && hasKey {
						t.Fatalf("%s leads from %v to %v, and the key is forgotten", e, s, next)
					}
					if (next.Status == m.lost) != (next.Former != "") {
						t.Fatalf("%s leads from %v to %v", e, s, next)
					}
					if next.Status == "" && (hasKey || !has(res.Effects, EffectRemove)) {
						t.Fatalf("%s removes a device with its key (%v)", e, res.Effects)
					}
					s = next
				}
			})
			if keyed == 0 {
				t.Error("no walk made a key: the test shows nothing")
			}
		})
	}
}

func TestAllowed_isTrueOnlyWhereTheMachineAgrees(t *testing.T) {
	t.Parallel()
	all := []api.DeviceStatus{api.DeviceNotConfigured, api.DeviceConfigured, api.DeviceEncryptionPending, api.DeviceEncrypting, api.DeviceEncryptionError,
		api.DeviceEncrypted, api.DeviceInUse, api.DeviceUndetected, api.DeviceMissing}
	in := func(s api.DeviceStatus, list ...api.DeviceStatus) bool { return slices.Contains(list, s) }
	for _, s := range all {
		nc, conf, pend, fail, enc, use := api.DeviceNotConfigured, api.DeviceConfigured, api.DeviceEncryptionPending, api.DeviceEncryptionError, api.DeviceEncrypted, api.DeviceInUse
		device := Actions{
			CanEditName: true, CanEditMount: in(s, nc, conf, fail, enc), CanEditKeyBits: in(s, nc, conf, fail), CanConfigure: in(s, nc, conf, fail, enc),
			CanEncrypt: in(s, conf), CanCancel: in(s, pend), CanExport: in(s, enc, use), CanUnconfigure: in(s, conf, enc, fail), CanDelete: in(s, api.DeviceUndetected),
			CanRemapImage: in(s, enc), CanCopyFrom: in(s, enc, use), CanCopyTo: in(s, nc), CanRotateKey: in(s, enc, use),
		}
		if got := Allowed(s); got != device {
			t.Errorf("%s: %+v, want %+v", s, got, device)
		}
		raid := Actions{
			CanEditName: true, CanEditMount: in(s, nc, conf, fail), CanEditKeyBits: in(s, nc, conf, fail), CanConfigure: in(s, nc, conf, fail),
			CanEncrypt: in(s, conf), CanCancel: in(s, pend), CanExport: in(s, enc, use), CanUnconfigure: in(s, conf, enc, fail), CanDelete: in(s, nc, api.DeviceMissing),
			CanRemapImage: in(s, enc),
		}
		if got := AllowedRAID(s); got != raid {
			t.Errorf("RAID %s: %+v, want %+v", s, got, raid)
		}
	}
	if Allowed("") != (Actions{}) || Allowed("nonsense") != (Actions{CanEditName: true}) {
		t.Errorf("a device that does not exist: %+v", Allowed(""))
	}
}

// P-07: 100 GB + 120 GB = 200 GB.
func TestRAIDSize_isSmallestMemberTimesCount(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		members []int64
		want    int64
	}{{[]int64{100, 120}, 200}, {[]int64{120, 100, 100}, 300}, {[]int64{math.MaxInt64 / 2, math.MaxInt64}, math.MaxInt64 - 1}} {
		if got, err := RAIDSize(c.members); err != nil || got != c.want {
			t.Errorf("%v: %d, %v", c.members, got, err)
		}
	}
	for _, members := range [][]int64{nil, {100}, {100, 0}, {100, -5}, {math.MaxInt64, math.MaxInt64}} {
		if got, err := RAIDSize(members); err == nil {
			t.Errorf("%v: %d", members, got)
		}
	}
}
