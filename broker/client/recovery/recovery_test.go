package recovery

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

var writeGolden = flag.Bool("write-golden", false, "write new golden files, after a new format version")

var (
	holders     = []string{"Alice", "Bob", "Carol"}
	passphrases = []string{"alice's passphrase", "bob's passphrase!", "carol's passphrase"}
)

func testKey(t testing.TB) (PublicKey, []Share) {
	t.Helper()
	k, texts, err := New(holders, 2, passphrases)
	if err != nil {
		t.Fatal(err)
	}
	var shares []Share
	for _, text := range texts {
		s, err := ParseShare(text)
		if err != nil {
			t.Fatal(err)
		}
		shares = append(shares, s)
	}
	return k, shares
}

func testHeader() (Header, [][]byte) {
	xts := api.VolumeRecord{UUID: "6f9d3e8c-8f5b-4e6e-9a57-2b8f3c0d1e2f", Cipher: api.CipherXTS, KeyBits: 256, SectorSize: 4096}
	old := xts
	old.Cipher, old.KeyBits = api.CipherESSIV, 128
	return Header{Broker: "https://broker.example", AccountID: "acc", AccountName: "acme", Scope: "account", Revision: "r1",
			MadeAt: time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC), Devices: []Device{{ID: "d1", Name: "data", Volume: xts}, {ID: "d2", Name: "old", Volume: old}}},
		[][]byte{bytes.Repeat([]byte{1}, 64), bytes.Repeat([]byte{2}, 16)}
}

func TestBreakGlass_kOfNOpenTheEnvelope(t *testing.T) {
	t.Parallel()
	key, shares := testKey(t)
	back, err := ParsePublicKey(key.PEM())
	if err != nil || back.ID != key.ID || back.Threshold != 2 || strings.Join(back.Holders, " ") != "Alice Bob Carol" {
		t.Fatalf("%+v, %v", back, err)
	}
	h, keys := testHeader()
	data, err := Seal(back, h, keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]int{{0, 1}, {2, 0}, {1, 2}} {
		private, err := Combine([]Share{shares[pair[0]], shares[pair[1]]}, []string{passphrases[pair[0]], passphrases[pair[1]]})
		if err != nil {
			t.Fatal(err)
		}
		got, opened, err := Open(private, data)
		if err != nil || got.KeyID != key.ID || len(opened) != 2 || !bytes.Equal(opened[0], keys[0]) || !bytes.Equal(opened[1], keys[1]) {
			t.Errorf("%v: %+v, %v", pair, got, err)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if text := fmt.Sprintf(verb, private); !strings.Contains(text, "REDACTED") {
				t.Errorf("%s shows %s", verb, text)
			}
		}
		private.Wipe()
	}
	if bytes.Contains(data, keys[0][:16]) || bytes.Contains(data, keys[1]) {
		t.Error("the envelope shows a key")
	}
}

// Who fails is told by name, and what the others gave stays good.
func TestCombine_namesTheShareThatIsWrong(t *testing.T) {
	t.Parallel()
	_, shares := testKey(t)
	_, others := testKey(t)
	changed := shares[1]
	changed.body = bytes.Clone(changed.body)
	changed.body[40] ^= 1
	renamed := shares[1]
	renamed.headers = map[string]string{}
	for k, v := range shares[1].headers {
		renamed.headers[k] = v
	}
	renamed.headers["Holder"] = "Mallory"
	for name, c := range map[string]struct {
		shares      []Share
		passphrases []string
		want        string
	}{
		"one alone":          {shares[:1], passphrases[:1], "2 are needed"},
		"another passphrase": {shares[:2], []string{passphrases[0], "not this one at all"}, "share of Bob (number 2) does not open"},
		"passphrases turned": {shares[:2], []string{passphrases[1], passphrases[0]}, "share of Alice"},
		"a changed byte":     {[]Share{shares[0], changed}, passphrases[:2], "share of Bob"},
		"another name on it": {[]Share{shares[0], renamed}, passphrases[:2], "does not open"},
		"of another set":     {[]Share{shares[0], others[1]}, passphrases[:2], "leave the other out"},
		"the same one twice": {[]Share{shares[0], shares[0]}, []string{passphrases[0], passphrases[0]}, "Alice is given twice"},
		"no passphrase":      {shares[:2], passphrases[:1], "each share has one"},
		"nothing":            {nil, nil, "0 shares"},
	} {
		k, err := Combine(c.shares, c.passphrases)
		if err == nil || !strings.Contains(err.Error(), c.want) || k.seed != nil {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestOpen_everyChangedByteOfTheEnvelopeIsNoticed(t *testing.T) {
	t.Parallel()
	key, shares := testKey(t)
	h, keys := testHeader()
	data, err := Seal(key, h, keys)
	if err != nil {
		t.Fatal(err)
	}
	private, err := Combine(shares[:2], passphrases[:2])
	if err != nil {
		t.Fatal(err)
	}
	defer private.Wipe()
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	for field, b := range map[string][]byte{"header": e.Header, "encapsulated key": e.EncapsulatedKey, "sealed keys": e.SealedKeys} {
		for i := 0; i < len(b); i += 1 + len(b)/40 {
			b[i] ^= 4
			bad, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := Open(private, bad); err == nil {
				t.Errorf("byte %d of the %s changed, and it opens", i, field)
			}
			b[i] ^= 4
		}
	}
	// A device exchanged for another, with the text otherwise whole.
	swapped := bytes.Replace(e.Header, []byte(`"id":"d1"`), []byte(`"id":"d9"`), 1)
	bad, err := json.Marshal(envelope{swapped, e.EncapsulatedKey, e.SealedKeys})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(private, bad); !errors.Is(err, ErrEnvelope) {
		t.Errorf("another device in the header: %v", err)
	}
	other, otherShares := testKey(t)
	if data, err = Seal(other, h, keys); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(private, data); err == nil || !strings.Contains(err.Error(), "take the shares of that key") {
		t.Errorf("an envelope of another key: %v (%d shares)", err, len(otherShares))
	}
}

func TestNew_refusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		holders     []string
		threshold   int
		passphrases []string
	}{
		"one holder":       {holders[:1], 1, passphrases[:1]},
		"one opens":        {holders, 1, passphrases},
		"more than all":    {holders, 4, passphrases},
		"same name":        {[]string{"Bob", "bob"}, 2, passphrases[:2]},
		"comma in a name":  {[]string{"Bob", "Doe, Jane"}, 2, passphrases[:2]},
		"line in a name":   {[]string{"Bob", "Jane\nNumber: 9"}, 2, passphrases[:2]},
		"too short":        {holders, 2, []string{"alice's passphrase", "short", "carol's passphrase"}},
		"one for two":      {holders, 2, []string{"the same passphrase", "the same passphrase", "carol's passphrase"}},
		"too few":          {holders, 2, passphrases[:2]},
		"nobody":           {nil, 2, nil},
		"empty name":       {[]string{"Bob", ""}, 2, passphrases[:2]},
		"space around it":  {[]string{"Bob", " Jane"}, 2, passphrases[:2]},
		"endless name":     {[]string{"Bob", strings.Repeat("x", 65)}, 2, passphrases[:2]},
		"a colon in there": {[]string{"Bob", "Jane: Doe"}, 2, passphrases[:2]},
	} {
		if _, _, err := New(c.holders, c.threshold, c.passphrases); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// What version 1 wrote opens for ever.
func TestGolden_version1(t *testing.T) {
	t.Parallel()
	if *writeGolden {
		k, texts, err := New(holders, 2, passphrases)
		if err != nil {
			t.Fatal(err)
		}
		h, keys := testHeader()
		data, err := Seal(k, h, keys)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string][]byte{"key.pub": k.PEM(), "share1.txt": texts[0], "share3.txt": texts[2], "envelope.json": data} {
			if err := os.WriteFile("testdata/v1-"+name, text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	golden := func(name string) []byte {
		data, err := os.ReadFile("testdata/v1-" + name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if _, err := ParsePublicKey(golden("key.pub")); err != nil {
		t.Error(err)
	}
	first, err1 := ParseShare(golden("share1.txt"))
	third, err3 := ParseShare(golden("share3.txt"))
	if err := errors.Join(err1, err3); err != nil {
		t.Fatal(err)
	}
	private, err := Combine([]Share{third, first}, []string{passphrases[2], passphrases[0]})
	if err != nil {
		t.Fatal(err)
	}
	_, want := testHeader()
	h, keys, err := Open(private, golden("envelope.json"))
	if err != nil || len(keys) != 2 || !bytes.Equal(keys[0], want[0]) || !bytes.Equal(keys[1], want[1]) || h.Devices[1].Volume.Cipher != api.CipherESSIV {
		t.Errorf("%+v, %v", h, err)
	}
}

func FuzzParseShare(f *testing.F) {
	if data, err := os.ReadFile("testdata/v1-share1.txt"); err == nil {
		f.Add(data)
	}
	f.Add(pem.EncodeToMemory(&pem.Block{Type: shareType, Headers: map[string]string{"Version": "1", "Number": "1"}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseShare(data); err == nil && (len(s.body) != shareBytes || s.Number < 1 || s.Threshold < 2) {
			t.Errorf("accepted %+v", s)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	if data, err := os.ReadFile("testdata/v1-key.pub"); err == nil {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := ParsePublicKey(data); err == nil && (k.check() != nil || k.Threshold > len(k.Holders)) {
			t.Errorf("accepted %+v", k)
		}
	})
}

func FuzzReadHeader(f *testing.F) {
	if data, err := os.ReadFile("testdata/v1-envelope.json"); err == nil {
		f.Add(data)
	}
	f.Add([]byte(`{"header":"e30=","encapsulated_key":"","sealed_keys":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := ReadHeader(data); err == nil && (h.Version != 1 || len(h.Devices) > maxDevices) {
			t.Errorf("accepted %+v", h)
		}
	})
}
