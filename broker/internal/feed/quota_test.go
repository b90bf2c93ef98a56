package feed

import "testing"

func TestQuota_leavesRoomForOthers(t *testing.T) {
	t.Parallel()
	q := Quota{PerOwner: 2, PerAccount: 3, Total: 4}
	take := func(account, owner string, want bool) func() {
		t.Helper()
		release, ok := q.Take(account, owner)
		if ok != want {
			t.Errorf("a place for %s of %s: %v, want %v", owner, account, ok, want)
		}
		return release
	}
	first := take("a", "ann", true)
	take("a", "ann", true)
	take("a", "ann", false) // the session is full
	take("a", "bob", true)
	take("a", "cem", false) // the account is full
	take("b", "dan", true)
	take("c", "eva", false) // the broker is full
	first()
	first() // counts once
	take("a", "cem", true)
	take("c", "eva", false)
	if len(q.owners) != 4 || len(q.accounts) != 2 || q.total != 4 {
		t.Errorf("owners %v, accounts %v, total %d: places that were given back are remembered", q.owners, q.accounts, q.total)
	}
	unbounded := Quota{}
	for range 100 {
		if _, ok := unbounded.Take("a", "ann"); !ok {
			t.Fatal("a quota without limits refused")
		}
	}
}
