//go:build !linux && !windows

package keymem

// allocate uses the Go heap: this system is built for, not run in production.
func allocate(n int) (mem []byte, protection string, release func() error, err error) {
	return make([]byte, n), None, func() error { return nil }, nil
}
