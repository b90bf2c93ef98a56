//go:build !purego

package keymem

import "golang.org/x/sys/cpu"

// vzeroall clears vector registers 0 to 15.
func vzeroall()

// clearRegisters forgets what copying a secret has left in vector registers, before a signal saves them somewhere.
func clearRegisters() {
	if cpu.X86.HasAVX {
		vzeroall()
	}
}
