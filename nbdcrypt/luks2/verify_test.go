package luks2

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

// What an attacker with write access to the disk, but without the key, can do to the JSON with correct checksums.
func TestRead_refusesTamperedHeadersByField(t *testing.T) {
	t.Parallel()
	segment := func(name string, value any) func(map[string]any) {
		return func(root map[string]any) { in(root, "segments", "0")[name] = value }
	}
	token := func(name string, value any) func(map[string]any) {
		return func(root map[string]any) { in(root, "tokens", "0")[name] = value }
	}
	digest := func(name string, value any) func(map[string]any) {
		return func(root map[string]any) { in(root, "digests", "0")[name] = value }
	}
	slot := func(from, size string) map[string]any {
		return map[string]any{"type": "luks2", "key_size": 64, "area": map[string]any{"offset": from, "size": size}}
	}
	for name, c := range map[string]struct {
		field  string
		change func(root map[string]any)
	}{
		"null cipher":             {"segments.0.encryption", segment("encryption", "cipher_null-ecb")},
		"cipher null long form":   {"segments.0.encryption", segment("encryption", "capi:ecb(cipher_null)-plain")},
		"unknown cipher":          {"segments.0.encryption", segment("encryption", "aes-cbc-plain")},
		"linear segment":          {"segments.0.type", segment("type", "linear")},
		"payload over the header": {"config.keyslots_size", segment("offset", "0")},
		"payload over the slots":  {"config.keyslots_size", segment("offset", "1048576")},
		"unaligned payload":       {"data_offset", segment("offset", "16777728")},
		"payload beyond any disk": {"segments.0.offset", segment("offset", "18446744073709551615")},
		"negative offset":         {"segments.0.offset", segment("offset", "-4096")},
		"offset in hex":           {"segments.0.offset", segment("offset", "0x1000000")},
		"offset with zeroes":      {"segments.0.offset", segment("offset", "0016777216")},
		"offset as a number":      {"segments.0.offset", segment("offset", 16777216)},
		"fixed size":              {"segments.0.size", segment("size", "4096")},
		"shifted tweak":           {"segments.0.iv_tweak", segment("iv_tweak", "8")},
		"sector size 1024":        {"sector_size", segment("sector_size", 1024)},
		"sector size 2^40":        {"segments.0.sector_size", segment("sector_size", 1<<40)},
		"sector size 1e3":         {"segments.0.sector_size", segment("sector_size", 512.5)},
		"integrity":               {"segments.0.integrity", segment("integrity", map[string]any{"type": "hmac(sha256)"})},
		"reencryption flags":      {"segments.0.flags", segment("flags", []string{"backup-previous"})},
		"second segment":          {"segments.1", func(r map[string]any) { in(r, "segments")["1"] = in(r, "segments", "0") }},
		"no segment":              {"segments.0", func(r map[string]any) { r["segments"] = map[string]any{} }},
		"foreign token":           {"tokens.0.type", token("type", "systemd-tpm2")},
		"second token":            {"tokens.1.type", func(r map[string]any) { in(r, "tokens")["1"] = in(r, "tokens", "0") }},
		"no token":                {"tokens", func(r map[string]any) { r["tokens"] = map[string]any{} }},
		"token is a list":         {"tokens.0.type", func(r map[string]any) { in(r, "tokens")["0"] = []int{1} }},
		"newer format":            {"tokens.0.version", token("version", 2)},
		"unknown token field":     {"tokens.0.cipher", token("cipher", "none")},
		"short HMAC":              {"tokens.0.hmac", token("hmac", "AAAA")},
		"HMAC with garbage":       {"tokens.0.hmac", token("hmac", strings.Repeat("A", 42)+"=!")},
		"epoch 0":                 {"epoch", token("epoch", "0")},
		"epoch 2^64":              {"tokens.0.epoch", token("epoch", "18446744073709551616")},
		"data size 0":             {"data_size", token("data_size", "0")},
		"data size 2^62":          {"data_size", token("data_size", fmt.Sprint(1<<62))},
		"data size odd":           {"data_size", token("data_size", "4097")},
		"key of 512 bits":         {"key_bits", token("key_bits", 512)},
		"argon2 digest":           {"digests.0.type", digest("type", "argon2id")},
		"sha1 digest":             {"digests.0.hash", digest("hash", "sha1")},
		"no iterations":           {"digest_iterations", digest("iterations", 0)},
		"2^31 iterations":         {"digests.0.iterations", digest("iterations", 1<<31)},
		"billion iterations":      {"digest_iterations", digest("iterations", 1_000_000_000)},
		"salt of 1 byte":          {"digests.0.salt", digest("salt", base64.StdEncoding.EncodeToString([]byte{1}))},
		"digest of other segment": {"digests.0.segments", digest("segments", []string{"1"})},
		"second digest":           {"digests.1", func(r map[string]any) { in(r, "digests")["1"] = in(r, "digests", "0") }},
		"JSON size":               {"config.json_size", func(r map[string]any) { in(r, "config")["json_size"] = "4096" }},
		"slots over the payload":  {"config.keyslots_size", func(r map[string]any) { in(r, "config")["keyslots_size"] = "16777216" }},
		"requirements":            {"config.requirements", func(r map[string]any) { in(r, "config")["requirements"] = map[string]any{"mandatory": []string{"x"}} }},
		"unknown section":         {"extra", func(r map[string]any) { r["extra"] = 1 }},
		"slot over the header":    {"keyslots.0.area.offset", func(r map[string]any) { in(r, "keyslots")["0"] = slot("0", "4096") }},
		"slot over the payload":   {"keyslots.0.area.offset", func(r map[string]any) { in(r, "keyslots")["0"] = slot("16773120", "8192") }},
		"slots that overlap": {"keyslots.area", func(r map[string]any) {
			in(r, "keyslots")["0"], in(r, "keyslots")["1"] = slot("32768", "8192"), slot("36864", "4096")
		}},
		"re-encryption slot": {"keyslots.0.type", func(r map[string]any) {
			s := slot("32768", "4096")
			s["type"] = "reencrypt"
			in(r, "keyslots")["0"] = s
		}},
		"slot of another key size": {"keyslots.0.key_size", func(r map[string]any) {
			s := slot("32768", "4096")
			s["key_size"] = 1
			in(r, "keyslots")["0"] = s
		}},
		"digest of no slot": {"keyslots.5", digest("keyslots", []string{"5"})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dev, _, _ := formatted(t, testParams(), 1)
			tamper(t, dev, c.change)
			_, err := Read(dev)
			var field *FieldError
			if !errors.As(err, &field) || field.Field != c.field {
				t.Errorf("error %v, want one of field %s", err, c.field)
			}
			if foreign := c.field == "tokens" || strings.HasPrefix(c.field, "tokens.") && strings.HasSuffix(c.field, ".type"); errors.Is(err, ErrForeign) != foreign {
				t.Errorf("ErrForeign is %v for %v", !foreign, err)
			}
		})
	}
}

// What passes as a well-formed header must still differ from the record, or fail the key.
func TestVerify_refusesWhatTheRecordDoesNotSay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		field  string
		change func(root map[string]any)
	}{
		"other cipher":       {"cipher", func(r map[string]any) { in(r, "segments", "0")["encryption"] = CipherESSIV }},
		"smaller sectors":    {"sector_size", func(r map[string]any) { in(r, "segments", "0")["sector_size"] = 512 }},
		"payload moved":      {"data_offset", func(r map[string]any) { in(r, "segments", "0")["offset"] = "16781312" }},
		"payload shorter":    {"data_size", func(r map[string]any) { in(r, "tokens", "0")["data_size"] = "4096" }},
		"weaker key":         {"key_bits", func(r map[string]any) { in(r, "tokens", "0")["key_bits"] = 128 }},
		"older epoch":        {"epoch", func(r map[string]any) { in(r, "tokens", "0")["epoch"] = "4" }},
		"newer epoch":        {"epoch", func(r map[string]any) { in(r, "tokens", "0")["epoch"] = "6" }},
		"foreign broker":     {"broker", func(r map[string]any) { in(r, "tokens", "0")["broker"] = "https://evil.example" }},
		"foreign account":    {"account", func(r map[string]any) { in(r, "tokens", "0")["account"] = "other" }},
		"foreign device":     {"device", func(r map[string]any) { in(r, "tokens", "0")["device"] = "other" }},
		"more iterations":    {"digest_iterations", func(r map[string]any) { in(r, "digests", "0")["iterations"] = 2000 }},
		"other salt":         {"digest_salt", func(r map[string]any) { in(r, "digests", "0")["salt"] = in(r, "digests", "0")["digest"] }},
		"other digest":       {"digest", func(r map[string]any) { in(r, "digests", "0")["digest"] = in(r, "digests", "0")["salt"] }},
		"other HMAC":         {"header_hash", func(r map[string]any) { in(r, "tokens", "0")["hmac"] = in(r, "digests", "0")["salt"] }},
		"label, not a field": {"", func(map[string]any) {}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := testParams()
			p.Epoch = 5
			dev, rec, key := formatted(t, p, 1)
			tamper(t, dev, c.change)
			h := mustRead(t, dev)
			err := h.Verify(rec)
			var mismatch *MismatchError
			if c.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.As(err, &mismatch) || mismatch.Field != c.field {
				t.Errorf("error %v, want a mismatch in %s", err, c.field)
			}
			// Even with a broker fooled into recording what the disk says, the HMAC or the digest refuses.
			if err := h.VerifyKey(h.Record(), key); err == nil {
				t.Error("the key accepts the changed header")
			}
		})
	}
}

func TestVerify_swappedHeadersOfTwoVolumes(t *testing.T) {
	t.Parallel()
	a, recA, keyA := formatted(t, testParams(), 1)
	p := testParams()
	p.Device = "another-device"
	b, recB, _ := formatted(t, p, 2)
	headerA, headerB := a.Snapshot()[:keyslotsOffset], b.Snapshot()[:keyslotsOffset]
	for dev, header := range map[blockdev.Device][]byte{a: headerB, b: headerA} {
		if _, err := dev.WriteAt(header, 0); err != nil {
			t.Fatal(err)
		}
	}
	var mismatch *MismatchError
	for dev, rec := range map[blockdev.Device]Record{a: recA, b: recB} {
		if err := mustRead(t, dev).Verify(rec); !errors.As(err, &mismatch) || mismatch.Field != "uuid" {
			t.Errorf("error %v, want a mismatch in uuid", err)
		}
	}
	if err := mustRead(t, a).VerifyKey(recA, keyA); err == nil {
		t.Error("the HMAC accepts another volume's header")
	}
}

func TestVerify_headerOfAnOlderEpochBroughtBack(t *testing.T) {
	t.Parallel()
	dev, _, key := formatted(t, testParams(), 1)
	old := dev.Snapshot()[:keyslotsOffset]
	p := testParams()
	p.Overwrite, p.Epoch = true, 2
	rec, err := Format(dev, p, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dev.WriteAt(old, 0); err != nil {
		t.Fatal(err)
	}
	var mismatch *MismatchError
	if err := mustRead(t, dev).Verify(rec); !errors.As(err, &mismatch) {
		t.Errorf("error %v, want a mismatch", err)
	}
}

func TestVerifyKey_acceptsOnlyTheKey(t *testing.T) {
	t.Parallel()
	dev, rec, key := formatted(t, testParams(), 1)
	h := mustRead(t, dev)
	wrong, short := testKey(t, 256, 2), testKey(t, 128, 1)
	almost, err := key.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer almost.Wipe()
	almost.Bytes()[63] ^= 1
	gone := testKey(t, 256, 1)
	gone.Wipe()
	for name, err := range map[string]error{
		"wrong": h.VerifyKey(rec, wrong), "short": h.VerifyKey(rec, short), "one bit": h.VerifyKey(rec, almost),
		"wiped": h.VerifyKey(rec, gone), "nil": h.VerifyKey(rec, nil),
	} {
		if !errors.Is(err, ErrWrongKey) {
			t.Errorf("%s key: error %v", name, err)
		}
	}
	if err := h.VerifyKey(rec, key); err != nil {
		t.Error(err)
	}
}

func TestVerify_refusesARecordThatIsNotAcceptable(t *testing.T) {
	t.Parallel()
	dev, good, key := formatted(t, testParams(), 1)
	h := mustRead(t, dev)
	for field, change := range map[string]func(*Record){
		"uuid":              func(r *Record) { r.UUID = "{" + r.UUID[:34] + "}" },
		"cipher":            func(r *Record) { r.Cipher = "cipher_null-ecb" },
		"raid_index":        func(r *Record) { r.RAID = &RAIDMember{testSet, 2, 2, 4096} },
		"key_bits":          func(r *Record) { r.KeyBits = 0 },
		"sector_size":       func(r *Record) { r.SectorSize = 0 },
		"data_offset":       func(r *Record) { r.DataOffset = -1 },
		"data_size":         func(r *Record) { r.DataSize = 1 << 62 },
		"digest_salt":       func(r *Record) { r.DigestSalt = nil },
		"digest":            func(r *Record) { r.Digest = nil },
		"digest_iterations": func(r *Record) { r.DigestIterations = 1 },
		"epoch":             func(r *Record) { r.Epoch = 0 },
		"header_hash":       func(r *Record) { r.HeaderHash = nil },
		"broker":            func(r *Record) { r.Broker = "" },
		"account":           func(r *Record) { r.Account = "a b" },
		"device":            func(r *Record) { r.Device = "<script>" },
	} {
		rec := good
		change(&rec)
		for _, err := range []error{h.Verify(rec), h.VerifyKey(rec, key)} {
			var bad *FieldError
			if !errors.As(err, &bad) || bad.Field != field {
				t.Errorf("%s: error %v", field, err)
			}
		}
	}
}
