package recovery

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestField_isAField(t *testing.T) {
	t.Parallel()
	slow := func(a, b int) byte { // by the schoolbook: a product of polynomials, then its remainder by 0x11d
		p := 0
		for i := range 8 {
			if b>>i&1 == 1 {
				p ^= a << i
			}
		}
		for i := 15; i >= 8; i-- {
			if p>>i&1 == 1 {
				p ^= 0x11d << (i - 8)
			}
		}
		return byte(p)
	}
	for a := range 256 {
		for b := range 256 {
			if got := mul(byte(a), byte(b)); got != slow(a, b) {
				t.Fatalf("%#x times %#x is %#x, want %#x", a, b, got, slow(a, b))
			}
		}
		if a > 0 && mul(byte(a), inv(byte(a))) != 1 {
			t.Fatalf("the inverse of %#x is wrong", a)
		}
	}
}

func TestShamir_anyKMakeTheSecretAgain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "secret")
		n := rapid.IntRange(2, MaxHolders).Draw(t, "n")
		k := rapid.IntRange(2, n).Draw(t, "k")
		points, err := split(secret, n, k)
		if err != nil {
			t.Fatal(err)
		}
		chosen := rapid.Permutation(points).Draw(t, "order")[:rapid.IntRange(k, n).Draw(t, "given")]
		if got, err := combine(chosen); err != nil || !bytes.Equal(got, secret) {
			t.Fatalf("%d of %d: %x, %v, want %x", len(chosen), n, got, err, secret)
		}
	})
}

// Fewer than k points are consistent with every secret: for each value that the secret could have there is exactly one
// polynomial through them. So they say nothing about it.
func TestShamir_fewerThanKSayNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(2, 6).Draw(t, "k")
		points, err := split([]byte{rapid.Byte().Draw(t, "secret")}, 6, k)
		if err != nil {
			t.Fatal(err)
		}
		known := points[:k-1]
		seen := map[byte]bool{}
		for guess := range 256 {
			// The value that a kth point at x = 7 would have if the secret were guess.
			all := append([]point{{0, []byte{byte(guess)}}}, known...)
			seen[interpolate(all, 7)] = true
		}
		if len(seen) != 256 {
			t.Fatalf("%d points of %d leave %d secrets possible, want 256", k-1, k, len(seen))
		}
	})
}

func interpolate(points []point, at byte) (v byte) {
	for i, p := range points {
		f := byte(1)
		for j, q := range points {
			if i != j {
				f = mul(f, mul(q.x^at, inv(q.x^p.x)))
			}
		}
		v ^= mul(f, p.y[0])
	}
	return v
}

func TestShamir_refusals(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]int{{1, 1}, {3, 1}, {2, 3}, {MaxHolders + 1, 2}, {0, 0}} {
		if _, err := split([]byte{1}, c[0], c[1]); err == nil {
			t.Errorf("%d of %d was taken", c[1], c[0])
		}
	}
	for name, points := range map[string][]point{
		"one":              {{1, []byte{1}}},
		"twice the same":   {{1, []byte{1}}, {1, []byte{2}}},
		"the secret":       {{0, []byte{1}}, {1, []byte{2}}},
		"different length": {{1, []byte{1}}, {2, []byte{2, 3}}},
	} {
		if got, err := combine(points); err == nil {
			t.Errorf("%s made %x", name, got)
		}
	}
}

// libgfshare of Debian is another implementation of the same: it puts ours together, and we put its together.
func TestShamir_agreesWithGfshare(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"gfsplit", "gfcombine"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs libgfshare-bin")
		}
	}
	dir := t.TempDir()
	secret := []byte("a secret of 32 bytes, as a seed.")
	points, err := split(secret, 5, 3)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-o", filepath.Join(dir, "ours")}
	for _, p := range points[1:4] {
		name := filepath.Join(dir, fmt.Sprintf("share.%03d", p.x))
		if err := os.WriteFile(name, p.y, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, name)
	}
	if out, err := exec.Command("gfcombine", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "ours")); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("gfcombine makes %q of our shares, %v", got, err)
	}

	plain := filepath.Join(dir, "theirs")
	if err := os.WriteFile(plain, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gfsplit", "-n", "3", "-m", "4", plain).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	files, err := filepath.Glob(plain + ".*")
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	var theirs []point
	for _, f := range files[:3] {
		x, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(f), "."))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, point{byte(x), y})
	}
	if got, err := combine(theirs); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("the shares of gfsplit make %q, %v", got, err)
	}
}
