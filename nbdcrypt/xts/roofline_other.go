//go:build !amd64 || purego

package xts

// Roofline reports false: the generic kernel has no bound of its own to be measured against.
func Roofline(kernel string, passes int) (bytes int64, ok bool) { return 0, false }
