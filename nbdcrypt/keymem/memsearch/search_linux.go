// Package memsearch looks for a secret in the memory of a process, to prove in tests that a wiped key is gone. It needs
// the right to read /proc/PID/mem.
package memsearch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"unsafe"
)

// Pattern is a secret to look for, kept inverted so that a search of one's own process does not find the pattern.
type Pattern []byte

// NewPattern inverts the secret into a Pattern. The caller still has to wipe the secret.
func NewPattern(secret []byte) Pattern {
	p := make(Pattern, len(secret))
	for i, b := range secret {
		p[i] = ^b
	}
	return p
}

// Search returns the lines of /proc/PID/maps of every readable mapping that holds one of the patterns. pid 0 is this
// process. Memory that even root cannot read through /proc (memfd_secret) is skipped: that is its purpose.
func Search(pid int, patterns ...Pattern) (found []string, err error) {
	set, err := newSet(patterns)
	if err != nil {
		return nil, err
	}
	folder := "/proc/self"
	if pid != 0 {
		folder = fmt.Sprintf("/proc/%d", pid)
	}
	maps, err := os.ReadFile(folder + "/maps")
	if err != nil {
		return nil, fmt.Errorf("search memory: %w", err)
	}
	mem, err := os.Open(folder + "/mem")
	if err != nil {
		return nil, fmt.Errorf("search memory: %w", err)
	}
	defer mem.Close()
	buf := make([]byte, 1<<20)
	defer clear(buf)
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil || rights[0] != 'r' {
			continue // not readable, or above the 63-bit range (vsyscall)
		}
		if searchMapping(mem, from, to, buf, set, pid == 0) {
			found = append(found, lines.Text())
		}
	}
	return found, nil
}

func searchMapping(mem *os.File, from, to int64, buf []byte, set *set, own bool) bool {
	bufAt := int64(uintptr(unsafe.Pointer(&buf[0])))
	bufEnd := bufAt + int64(len(buf))
	for at := from; at < to; {
		end := min(at+int64(len(buf)), to)
		if own && at < bufEnd && bufAt < end {
			// Copying the buffer into itself proves nothing: search up to it, then go on behind it.
			if end = bufAt; at >= bufAt {
				at = bufEnd
				continue
			}
		}
		n, _ := mem.ReadAt(buf[:end-at], at) // an unreadable page ends the mapping for us
		if set.in(buf[:n]) {
			return true
		}
		if int64(n) < end-at {
			return false
		}
		if end == to {
			return false
		}
		// Overlap, so that a hit across two reads is seen.
		if at = end - int64(set.longest); end == bufAt && own {
			at = bufEnd
		}
	}
	return false
}

// SearchFile reports whether a file, as a core dump, holds one of the patterns.
func SearchFile(path string, patterns ...Pattern) (bool, error) {
	set, err := newSet(patterns)
	if err != nil {
		return false, err
	}
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("search file: %w", err)
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	defer clear(buf)
	kept := 0
	for {
		n, err := io.ReadFull(f, buf[kept:])
		if set.in(buf[:kept+n]) {
			return true, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("search file: %w", err)
		}
		// Overlap, so that a hit across two reads is seen.
		kept = copy(buf, buf[len(buf)-set.longest:])
	}
}

// set is patterns by their first two bytes, so that one pass looks for all of them.
type set struct {
	all     []Pattern
	byStart map[uint16][]Pattern
	starts  [1 << 16]bool
	longest int
}

func newSet(patterns []Pattern) (*set, error) {
	s := &set{all: patterns, byStart: map[uint16][]Pattern{}}
	for _, p := range patterns {
		if len(p) < 8 {
			return nil, errors.New("search memory: a pattern of less than 8 bytes is found by chance")
		}
		start := uint16(^p[0])<<8 | uint16(^p[1])
		s.byStart[start] = append(s.byStart[start], p)
		s.starts[start] = true
		s.longest = max(s.longest, len(p))
	}
	return s, nil
}

// few patterns are looked for one by one, each at the speed of bytes.IndexByte.
const few = 4

func (s *set) in(haystack []byte) bool {
	if len(s.all) <= few {
		return slices.ContainsFunc(s.all, func(p Pattern) bool { return p.in(haystack) })
	}
	return s.anyIn(haystack)
}

func (p Pattern) in(haystack []byte) bool {
	for len(haystack) >= len(p) {
		skip := bytes.IndexByte(haystack[:len(haystack)-len(p)+1], ^p[0])
		if skip < 0 {
			return false
		}
		if haystack = haystack[skip:]; matches(haystack, p) {
			return true
		}
		haystack = haystack[1:]
	}
	return false
}

// anyIn looks at every byte; under the race detector that would take minutes, for a buffer that nobody shares.
//
//go:norace
func (s *set) anyIn(haystack []byte) bool {
	for i := 0; i+1 < len(haystack); i++ {
		start := uint16(haystack[i])<<8 | uint16(haystack[i+1])
		if !s.starts[start] {
			continue
		}
		for _, p := range s.byStart[start] {
			if i+len(p) <= len(haystack) && matches(haystack[i:], p) {
				return true
			}
		}
	}
	return false
}

func matches(b []byte, p Pattern) bool {
	for k := range p {
		if b[k] != ^p[k] {
			return false
		}
	}
	return true
}
