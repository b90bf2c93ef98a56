package keymem

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

func mustKey(t *testing.T, secret string) *Key {
	t.Helper()
	k, err := FromBytes([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

func TestKey_isRedactedWhereverItCouldBePrinted(t *testing.T) {
	const secret = "correct horse battery staple"
	k := mustKey(t, secret)
	type holder struct {
		Pointer *Key
		Value   Key
		hidden  *Key
	}
	h := holder{k, *k, k}
	var logged bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logged, nil))
	log.Info("x", "key", k, "value", *k, "holder", h)
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "key", k, "holder", h)

	shown := logged.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p", "%T %[1]v"} {
		shown += fmt.Sprintf(verb, k) + fmt.Sprintf(verb, *k) + fmt.Sprintf(verb, h)
	}
	for _, leak := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprint([]byte(secret))} {
		if strings.Contains(shown, leak) {
			t.Errorf("the secret was printed as %q", leak)
		}
	}
	if got := fmt.Sprintf("%v %s", k, *k); got != "REDACTED REDACTED" {
		t.Errorf("printed as %q", got)
	}
}

func TestKey_refusesToBeMarshalled(t *testing.T) {
	k := mustKey(t, "secret")
	for name, v := range map[string]any{"pointer": k, "value": *k, "field": struct{ K *Key }{k}, "map": map[string]any{"k": k}} {
		if out, err := json.Marshal(v); err == nil {
			t.Errorf("%s: marshalled to %s", name, out)
		}
	}
	if _, err := k.MarshalText(); err == nil {
		t.Error("MarshalText worked")
	}
	if _, err := k.MarshalBinary(); err == nil {
		t.Error("MarshalBinary worked")
	}
}

func TestFromBytes_wipesItsArgument(t *testing.T) {
	b := []byte("secret")
	k, err := FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Wipe()
	if !bytes.Equal(b, make([]byte, 6)) {
		t.Errorf("argument still holds %q", b)
	}
	if string(k.Bytes()) != "secret" || k.Len() != 6 {
		t.Errorf("key holds %d bytes", k.Len())
	}
}

func TestNew_refusesAbsurdLengths(t *testing.T) {
	for _, n := range []int{-1, 0, MaxLen + 1, 1 << 40} {
		if k, err := New(n); err == nil {
			k.Wipe()
			t.Errorf("New(%d) worked", n)
		}
	}
}

func TestKey_everyLengthIsWritableToItsLastByte(t *testing.T) {
	for _, n := range []int{1, 16, 63, 64, 65, 4095, 4096, 4097, MaxLen} {
		k, err := New(n)
		if err != nil {
			t.Fatal(err)
		}
		b := k.Bytes()
		for i := range b {
			b[i] = byte(i)
		}
		if len(b) != n || cap(b) != n {
			t.Errorf("len %d cap %d, want %d", len(b), cap(b), n)
		}
		k.Wipe()
	}
}

func TestWipe_twiceAndOnNothing(t *testing.T) {
	k := mustKey(t, "secret")
	other := mustKey(t, "secret")
	if !k.Equal(other) {
		t.Error("equal secrets differ")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(k.Wipe)
	}
	wg.Wait()
	if k.Bytes() != nil || k.Len() != 0 {
		t.Error("a wiped key still has bytes")
	}
	if k.Equal(other) || k.Equal(k) {
		t.Error("a wiped key equals something")
	}
	if _, err := k.Clone(); err == nil {
		t.Error("a wiped key was cloned")
	}
	var none *Key
	none.Wipe()
	(&Key{}).Wipe()
	if none.Len() != 0 || none.Protection() != None {
		t.Error("nil key holds something")
	}
}

func TestClone_outlivesTheOriginal(t *testing.T) {
	k := mustKey(t, "secret")
	c, err := k.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Wipe()
	k.Wipe()
	if string(c.Bytes()) != "secret" {
		t.Errorf("clone holds %q", c.Bytes())
	}
}

func TestSplit_givesEachPartItsOwnMemory(t *testing.T) {
	t.Parallel()
	whole := mustKey(t, "first second!")
	defer whole.Wipe()
	for _, lengths := range [][]int{{}, {5}, {5, 9}, {0, 13}, {-1, 14}, {13, 1}} {
		if parts, err := whole.Split(lengths...); err == nil {
			t.Errorf("split into %v: %d parts", lengths, len(parts))
		}
	}
	parts, err := whole.Split(5, 8)
	if err != nil {
		t.Fatal(err)
	}
	whole.Wipe()
	for i, want := range []string{"first", " second!"} {
		if got := string(parts[i].Bytes()); got != want {
			t.Errorf("part %d is %q, want %q", i, got, want)
		}
		parts[i].Wipe()
	}
	if _, err := whole.Split(13); err == nil {
		t.Error("a wiped secret was split")
	}
}
