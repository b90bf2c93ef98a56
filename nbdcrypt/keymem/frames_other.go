//go:build !linux

package keymem

// ScrubSignalFrames does nothing where the runtime is not preempted by signals.
func ScrubSignalFrames() {}
