package server

import "testing"

func TestGrowth_isBoundedInBytesAndThenInShare(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int{0: mostGrowth, 4 << 20: mostGrowth, 16 << 20: 400, 32 << 20: 200, 64 << 20: 100, 1 << 30: 100, 1 << 40: 100} {
		if got := growth(live); got != want {
			t.Errorf("%d live bytes may grow by %d %%, want %d", live, got, want)
		}
	}
}
