//go:build !amd64 || purego

package keymem

// clearRegisters does nothing: how copies are made is not known for this processor.
func clearRegisters() {}
