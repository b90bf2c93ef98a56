package policy

import (
	"os/exec"
	"testing"

	"pgregory.net/rapid"
)

// dpkg itself is the judge of the order.
func TestPackageVersion_ordersAsDpkgDoes(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skipf("needs dpkg: %v", err)
	}
	dpkg := func(a, op, b string) bool { return exec.Command("dpkg", "--compare-versions", a, op, b).Run() == nil }
	check := func(t interface{ Errorf(string, ...any) }, a, b string) {
		v, errV := parsePackageVersion(a)
		w, errW := parsePackageVersion(b)
		if errV != nil || errW != nil {
			t.Errorf("%q, %q: %v, %v", a, b, errV, errW)
			return
		}
		got := v.compare(w)
		op := map[bool]string{got < 0: "lt", got > 0: "gt", got == 0: "eq"}[true]
		if !dpkg(a, op, b) {
			t.Errorf("%q %s %q, but dpkg disagrees", a, op, b)
		}
		if back := w.compare(v); (back < 0) != (got > 0) || (back == 0) != (got == 0) {
			t.Errorf("%q and %q: %d one way, %d the other", a, b, got, back)
		}
	}
	for _, pair := range [][2]string{{"1.0", "1.0-0"}, {"1.0~rc1", "1.0"}, {"1.0", "1.0a"}, {"1.0a", "1.0.1"}, {"1:0.1", "9"}, {"0:1", "1"}, {"1.0-1", "1.0-1+b1"},
		{"3.0.11-1~deb12u1", "3.0.11-1~deb12u2"}, {"1.001", "1.1"}, {"2.4.7-1~~", "2.4.7-1~"}, {"1-2-3", "1-2-4"}, {"99999999999999999999", "100000000000000000000"}} {
		check(t, pair[0], pair[1])
	}
	text := rapid.StringMatching(`([0-2]:)?[0-9][0-9.a+~]{0,6}(-[0-9a.+~]{1,4})?`)
	drawn := 0
	rapid.Check(t, func(t *rapid.T) {
		if drawn++; drawn > 60 { // dpkg is a process each time
			return
		}
		check(t, text.Draw(t, "a"), text.Draw(t, "b"))
	})
}

// The only place where rpm orders differently: ^ comes after the end and before everything else.
func TestPackageVersion_caretOfRPM(t *testing.T) {
	t.Parallel()
	ascending := []string{"1.0~rc1", "1.0", "1.0^git1", "1.0^git2", "1.0a", "1.0.1"}
	for i := range ascending[1:] {
		v, _ := parsePackageVersion(ascending[i])
		w, _ := parsePackageVersion(ascending[i+1])
		if v.compare(w) >= 0 {
			t.Errorf("%s is not before %s", ascending[i], ascending[i+1])
		}
	}
}

func FuzzPackageVersion(f *testing.F) {
	f.Add("1:9.2p1-2+deb12u3", "9.2")
	f.Add("1.0~", "1.0^")
	f.Fuzz(func(t *testing.T, a, b string) {
		v, err := parsePackageVersion(a)
		w, err2 := parsePackageVersion(b)
		if err == nil && err2 == nil && (v.compare(w) < 0) != (w.compare(v) > 0) {
			t.Errorf("%q and %q", a, b)
		}
	})
}
