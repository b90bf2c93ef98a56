package preview

import (
	"maps"
	"slices"
)

// ranked keeps the most important items of many, a bounded number of each rank, in the order in which they came.
type ranked[T any] struct {
	most  int
	seen  int64
	ranks map[int][]T
}

func (r *ranked[T]) add(rank int, item T) {
	if r.ranks == nil {
		r.ranks = map[int][]T{}
	}
	r.seen++
	if len(r.ranks[rank]) < r.most {
		r.ranks[rank] = append(r.ranks[rank], item)
	}
}

// list returns the items, lowest rank first, and how many are not among them.
func (r *ranked[T]) list() ([]T, int64) {
	out := []T{}
	for _, rank := range slices.Sorted(maps.Keys(r.ranks)) {
		out = append(out, r.ranks[rank]...)
	}
	out = out[:min(len(out), r.most)]
	return out, r.seen - int64(len(out))
}
