// Package memsearch looks for a secret in the memory of a process, to prove in tests that a wiped key is gone. It needs
// the right to read /proc/PID/mem.
package memsearch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
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

// Search returns the lines of /proc/PID/maps of every readable mapping that holds the pattern. pid 0 is this process.
// Memory that even root cannot read through /proc (memfd_secret) is skipped: that is its purpose.
func Search(pid int, p Pattern) (found []string, err error) {
	if len(p) < 8 {
		return nil, errors.New("search memory: a pattern of less than 8 bytes is found by chance")
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
		if searchMapping(mem, from, to, buf, p, pid == 0) {
			found = append(found, lines.Text())
		}
	}
	return found, nil
}

func searchMapping(mem *os.File, from, to int64, buf []byte, p Pattern, own bool) bool {
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
		if index(buf[:n], p) >= 0 {
			return true
		}
		if int64(n) < end-at {
			return false
		}
		if end == to {
			return false
		}
		// Overlap, so that a hit across two reads is seen.
		if at = end - int64(len(p)); end == bufAt && own {
			at = bufEnd
		}
	}
	return false
}

func index(haystack []byte, p Pattern) int {
	for i := 0; i+len(p) <= len(haystack); i++ {
		skip := bytes.IndexByte(haystack[i:len(haystack)-len(p)+1], ^p[0])
		if skip < 0 {
			return -1
		}
		i += skip
		if matches(haystack[i:], p) {
			return i
		}
	}
	return -1
}

func matches(b []byte, p Pattern) bool {
	for k := range p {
		if b[k] != ^p[k] {
			return false
		}
	}
	return true
}
