package luks2

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

const testSet = "018f9c5e-7a40-7c1c-9d55-3f0a6d1f0a77"

// member formats member index of a stripe of two.
func member(t *testing.T, index int) (*blockdev.Memory, Record) {
	t.Helper()
	p := testParams()
	p.Device = fmt.Sprintf("disk-%d", index)
	p.RAID = &RAIDMember{Set: testSet, Index: index, Count: 2, Chunk: 65536}
	dev, rec, _ := formatted(t, p, uint64(index))
	return dev, rec
}

func TestRAID_recordedInTheTokenAndAuthenticated(t *testing.T) {
	t.Parallel()
	dev, rec := member(t, 1)
	h := mustRead(t, dev)
	if got := h.Record().RAID; got == nil || *got != (RAIDMember{testSet, 1, 2, 65536}) {
		t.Fatalf("the header says %+v", got)
	}
	for _, part := range []string{`"raid_chunk":"65536"`, `"raid_count":2`, `"raid_index":1`, `"raid_set":"` + testSet + `"`} {
		if !strings.Contains(string(h.text), part) {
			t.Errorf("no %s in the token: %s", part, h.text)
		}
	}
	key := testKey(t, 256, 1)
	if err := errors.Join(h.Verify(rec), h.VerifyKey(rec, key)); err != nil {
		t.Error(err)
	}
	for field, change := range map[string]func(token map[string]any){
		"raid_set":   func(token map[string]any) { token["raid_set"] = "018f9c5e-7a40-7c1c-9d55-3f0a6d1f0a78" },
		"raid_index": func(token map[string]any) { token["raid_index"] = 0 },
		"raid_count": func(token map[string]any) { token["raid_count"] = 3 },
		"raid_chunk": func(token map[string]any) { token["raid_chunk"] = "131072" },
	} {
		dev, rec := member(t, 1)
		tamper(t, dev, func(root map[string]any) { change(in(root, "tokens", "0")) })
		h := mustRead(t, dev)
		var mismatch *MismatchError
		if err := h.Verify(rec); !errors.As(err, &mismatch) || mismatch.Field != field {
			t.Errorf("%s changed: %v", field, err)
		}
		// The HMAC covers it even if the broker's record were fooled.
		var bad *FieldError
		if err := h.VerifyKey(h.Record(), key); !errors.As(err, &bad) {
			t.Errorf("%s changed: the key accepts it: %v", field, err)
		}
	}
	dev, rec = member(t, 1)
	tamper(t, dev, func(root map[string]any) {
		for _, name := range raidFields {
			delete(in(root, "tokens", "0"), name)
		}
	})
	var mismatch *MismatchError
	if err := mustRead(t, dev).Verify(rec); !errors.As(err, &mismatch) || mismatch.Field != "raid_set" || mismatch.OnDisk != "none" {
		t.Errorf("fields removed: %v", err)
	}
}

func TestRAID_memberInAnothersPlaceIsNamed(t *testing.T) {
	t.Parallel()
	a, recA := member(t, 0)
	b, recB := member(t, 1)
	if err := errors.Join(mustRead(t, a).Verify(recA), mustRead(t, b).Verify(recB)); err != nil {
		t.Fatal(err)
	}
	err := mustRead(t, b).Verify(recA)
	var mismatch *MismatchError
	if !errors.As(err, &mismatch) || mismatch.Field != "raid_index" || mismatch.OnDisk != "1 (device disk-1)" || mismatch.Expected != "0 (device disk-0)" {
		t.Errorf("error %v", err)
	}
	alone, _, _ := formatted(t, testParams(), 1)
	if err := mustRead(t, alone).Verify(recA); err == nil {
		t.Error("a volume of no stripe is accepted as a member")
	}
}

func TestRAID_volumesThatStandAloneHaveNoneOfItsFields(t *testing.T) {
	t.Parallel()
	dev, rec, _ := formatted(t, testParams(), 1)
	h := mustRead(t, dev)
	if rec.RAID != nil || h.Record().RAID != nil || strings.Contains(string(h.text), "raid") || strings.Contains(string(h.content.canonical(true)), "raid") {
		t.Errorf("a volume of its own says %s", h.text)
	}
}

func TestRAID_refusesWhatNoStripeCanBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		field string
		value RAIDMember
	}{
		"no set":               {"raid_set", RAIDMember{"", 0, 2, 65536}},
		"set in capitals":      {"raid_set", RAIDMember{strings.ToUpper(testSet), 0, 2, 65536}},
		"set is no UUID":       {"raid_set", RAIDMember{"pool", 0, 2, 65536}},
		"one member":           {"raid_count", RAIDMember{testSet, 0, 1, 65536}},
		"65 members":           {"raid_count", RAIDMember{testSet, 0, 65, 65536}},
		"index 2 of 2":         {"raid_index", RAIDMember{testSet, 2, 2, 65536}},
		"index -1":             {"raid_index", RAIDMember{testSet, -1, 2, 65536}},
		"chunk 0":              {"raid_chunk", RAIDMember{testSet, 0, 2, 0}},
		"chunk 1000":           {"raid_chunk", RAIDMember{testSet, 0, 2, 1000}},
		"chunk beyond payload": {"raid_chunk", RAIDMember{testSet, 0, 2, 2 << 20}},
	} {
		p := testParams()
		p.RAID = &c.value
		var field *FieldError
		if _, err := Format(blockdev.NewMemory(testSize), p, testKey(t, 256, 1)); !errors.As(err, &field) || field.Field != c.field {
			t.Errorf("%s: error %v, want one of field %s", name, err, c.field)
		}
	}
	for name, c := range map[string]struct {
		field  string
		change func(token map[string]any)
	}{
		"set alone":         {"tokens.0.raid_chunk", func(token map[string]any) { token["raid_set"] = testSet }},
		"chunk as a number": {"tokens.0.raid_chunk", func(token map[string]any) { token["raid_chunk"] = 65536 }},
		"index as text": {"tokens.0.raid_index", func(token map[string]any) {
			token["raid_set"], token["raid_index"], token["raid_count"], token["raid_chunk"] = testSet, "0", 2, "65536"
		}},
		"negative index": {"tokens.0.raid_index", func(token map[string]any) {
			token["raid_set"], token["raid_index"], token["raid_count"], token["raid_chunk"] = testSet, -1, 2, "65536"
		}},
		"index of another": {"raid_index", func(token map[string]any) {
			token["raid_set"], token["raid_index"], token["raid_count"], token["raid_chunk"] = testSet, 9, 2, "65536"
		}},
	} {
		dev, _, _ := formatted(t, testParams(), 1)
		tamper(t, dev, func(root map[string]any) { c.change(in(root, "tokens", "0")) })
		var field *FieldError
		if _, err := Read(dev); !errors.As(err, &field) || field.Field != c.field {
			t.Errorf("%s: error %v, want one of field %s", name, err, c.field)
		}
	}
}
