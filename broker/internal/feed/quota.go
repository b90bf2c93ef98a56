package feed

import "sync"

// Quota bounds how many listeners may hold a connection at the same time, so that neither one session or machine nor one
// account takes the places of all others. A limit of 0 bounds nothing. It is safe for concurrent use.
type Quota struct {
	// PerOwner bounds a session or machine, PerAccount a tenant, Total the broker.
	PerOwner, PerAccount, Total int

	mu       sync.Mutex
	owners   map[string]int
	accounts map[string]int
	total    int
}

// Take takes a place and returns how to give it back, which may be done twice; false says that there is none.
func (q *Quota) Take(accountID, owner string) (release func(), ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	full := func(n, limit int) bool { return limit > 0 && n >= limit }
	if full(q.owners[owner], q.PerOwner) || full(q.accounts[accountID], q.PerAccount) || full(q.total, q.Total) {
		return nil, false
	}
	if q.owners == nil {
		q.owners, q.accounts = map[string]int{}, map[string]int{}
	}
	q.owners[owner]++
	q.accounts[accountID]++
	q.total++
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		less(q.owners, owner)
		less(q.accounts, accountID)
		q.total--
	}), true
}

func less(counts map[string]int, key string) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}
