package account

import (
	"context"
	"strings"
	"testing"
)

func TestRate_followsThePolicy(t *testing.T) {
	t.Parallel()
	for password, want := range map[string]int{
		"":                        0,
		"Aa1+aaa":                 0, // 7 characters
		"Aa1+aaaa":                1,
		"aa1+aaaa":                0, // no upper case
		"AA1+AAAA":                0, // no lower case
		"Aab+aaaa":                0, // no digit
		"Aa1aaaaa":                0, // no special
		"Aa1 aaaa":                0, // a space is none
		"Aa1€aaaa":                1, // any other character is
		"Äö1+äöäö":                1, // letters of any alphabet
		"Aa1+bcde":                2,
		"Aa1+bcdefg":              3,
		"Aa1+bcdefghijklmn":       4,
		"Aa1+bcde\x00":            0,
		"Aa1+bcde\xff":            0,
		strings.Repeat("Aa1+", 8): 1,
		strings.Repeat("Aa1+", 9): 0, // 36 characters
	} {
		got := Rate(password, DefaultMaxPassword)
		if got.Score != want || (got.Score == 0) != (len(got.Missing) > 0) || got.Label == "" {
			t.Errorf("Rate(%q) = %+v, want score %d", password, got, want)
		}
	}
	if r := Rate(strings.Repeat("Aa1+", 32), MaxMaxPassword); r.Score == 0 {
		t.Errorf("128 characters where that is allowed: %+v", r)
	}
}

func TestNewPassword_passesItsOwnRules(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 200 {
		p := NewPassword()
		if r := Rate(p, DefaultMaxPassword); r.Score < 3 {
			t.Fatalf("made %q: %+v", p, r)
		}
		if seen[p] {
			t.Fatal("made the same password twice")
		}
		seen[p] = true
	}
}

func TestHash_isPHCAndChecksWhatItReads(t *testing.T) {
	t.Parallel()
	h := newHasher(current)
	ctx := context.Background()
	stored, err := h.hash(ctx, "secret")
	if err != nil || !strings.HasPrefix(stored, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("hash %q (%v)", stored, err)
	}
	if ok, outdated, err := h.matches(ctx, "secret", stored); !ok || outdated || err != nil {
		t.Errorf("the right password: %v %v %v", ok, outdated, err)
	}
	if ok, _, err := h.matches(ctx, "Secret", stored); ok || err != nil {
		t.Errorf("a wrong password: %v %v", ok, err)
	}
	if ok, _, err := h.matches(ctx, "", ""); ok || err != nil {
		t.Errorf("no user: %v %v", ok, err)
	}
	old := parameters{memory: 8 << 10, time: 1, threads: 2}
	salt := []byte("0123456789abcdef")
	if ok, outdated, err := h.matches(ctx, "secret", phc(old, salt, derive(old, "secret", salt))); !ok || !outdated || err != nil {
		t.Errorf("a hash of older parameters: %v %v %v", ok, outdated, err)
	}
	for name, bad := range map[string]string{
		"a memory bomb": strings.Replace(stored, "m=19456", "m=4194304", 1), "no memory": strings.Replace(stored, "m=19456", "m=0", 1),
		"many passes": strings.Replace(stored, "t=2", "t=4000000", 1), "other function": strings.Replace(stored, "argon2id", "argon2i", 1),
		"no hash": stored[:40], "trailing text": stored + "x", "negative": strings.Replace(stored, "t=2", "t=-2", 1), "leading zero": strings.Replace(stored, "t=2", "t=02", 1),
	} {
		if _, _, err := h.matches(ctx, "secret", bad); err == nil {
			t.Errorf("%s was computed", name)
		}
	}
}

func FuzzParsePHC(f *testing.F) {
	f.Add(phc(current, make([]byte, saltLen), make([]byte, hashLen)))
	f.Add("$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$")
	f.Add("$$$$$")
	f.Fuzz(func(t *testing.T, s string) {
		p, salt, hash, err := parsePHC(s)
		if err != nil {
			return
		}
		if phc(p, salt, hash) != s {
			t.Errorf("%q reads as something else", s)
		}
		if p.memory > maxMemory || p.time > maxTime || p.threads > maxThreads || len(hash) != hashLen {
			t.Errorf("%q is out of bounds", s)
		}
	})
}

func TestClip_cutsBetweenCharacters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc"}, {"aé", 2, "a"}, {"\xff\x00", 9, "??"}, {"", 0, ""}} {
		if got := clip(c.in, c.n); got != c.want {
			t.Errorf("clip(%q, %d) = %q, want %q", c.in, c.n, got, c.want)
		}
	}
}
