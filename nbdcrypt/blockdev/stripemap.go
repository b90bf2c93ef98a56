package blockdev

// place is where the byte at off of the stripe lies, and how many bytes from there on follow it on the same member.
func (s *Stripe) place(off int64) (member int, at, run int64) {
	chunk, count := off/s.chunk, int64(len(s.members))
	within := off % s.chunk
	return int(chunk % count), chunk/count*s.chunk + within, s.chunk - within
}

// span is the range [from, to) of a member that belongs to [off, off+n) of the stripe. It is one range because the
// chunks of a member that follow each other in the stripe follow each other on the member.
func (s *Stripe) span(member int, off, n int64) (from, to int64) {
	return s.before(member, off), s.before(member, off+n)
}

// before is how many bytes of a member belong to the first off bytes of the stripe.
func (s *Stripe) before(member int, off int64) int64 {
	row := s.chunk * int64(len(s.members))
	return off/row*s.chunk + min(max(off%row-int64(member)*s.chunk, 0), s.chunk)
}

// transfer does a read or write: each member its chunks in order, the members side by side.
func (s *Stripe) transfer(p []byte, off int64, do func(d Device, p []byte, off int64) (int, error)) (int, error) {
	n := int64(len(p))
	if err := CheckRange(off, n, s.size); err != nil {
		return 0, err
	}
	if member, at, run := s.place(off); n <= run {
		if n == 0 {
			return 0, nil
		}
		// The commonest request lies on one member: no goroutine, nothing allocated.
		done, err := do(s.members[member].Device, p, at)
		if err != nil {
			return done, s.memberError(member, err)
		}
		return done, nil
	}
	err := s.all(func(i int) bool { from, to := s.span(i, off, n); return from < to }, func(i int) error {
		for pos := s.firstOn(i, off); pos < n; {
			_, at, run := s.place(off + pos)
			run = min(run, n-pos)
			if _, err := do(s.members[i].Device, p[pos:pos+run:pos+run], at); err != nil {
				return err
			}
			pos += run + s.chunk*int64(len(s.members)-1)
		}
		return nil
	})
	if err != nil {
		return 0, err // parts behind the failed one may be done, so that no count would be right
	}
	return len(p), nil
}

// firstOn is the distance from off to the first byte that lies on a member.
func (s *Stripe) firstOn(member int, off int64) int64 {
	row := s.chunk * int64(len(s.members))
	within := off % row
	start := int64(member) * s.chunk
	switch {
	case within < start:
		return start - within
	case within < start+s.chunk:
		return 0
	}
	return row - within + start
}

// each passes a request for a range on to the members: one range to each.
func (s *Stripe) each(off, n int64, do func(d Device, off, n int64) error) error {
	if err := CheckRange(off, n, s.size); err != nil {
		return err
	}
	return s.all(func(i int) bool { from, to := s.span(i, off, n); return from < to }, func(i int) error {
		from, to := s.span(i, off, n)
		return do(s.members[i].Device, from, to-from)
	})
}

// maxStripeExtents bounds the work of one call of Extents.
const maxStripeExtents = 256

// Extents implements Extenter: chunk by chunk, until a member's answer ends early or there are many.
func (s *Stripe) Extents(off, n int64) ([]Extent, error) {
	if err := CheckRange(off, n, s.size); err != nil {
		return nil, err
	}
	var list []Extent
	for end := off + n; off < end && len(list) < maxStripeExtents; {
		member, at, run := s.place(off)
		run = min(run, end-off)
		parts, err := Extents(s.members[member].Device, at, run)
		if err != nil {
			return nil, s.memberError(member, err)
		}
		var covered int64
		for _, e := range parts {
			covered += e.Length
			if k := len(list) - 1; k >= 0 && list[k].Hole == e.Hole && list[k].Zero == e.Zero {
				list[k].Length += e.Length
			} else {
				list = append(list, e)
			}
		}
		if off += covered; covered < run {
			break
		}
	}
	return list, nil
}
