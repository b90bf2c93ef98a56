//go:build !linux

package keymem

// scrubSignalFrames does nothing where the runtime is not preempted by signals.
func scrubSignalFrames() {}
