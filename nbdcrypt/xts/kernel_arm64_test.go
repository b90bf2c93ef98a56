//go:build !purego

package xts

import (
	"testing"

	"github.com/klauspost/cpuid/v2"
)

func TestKernels_armv8IsUsed(t *testing.T) {
	if !cpuid.CPU.Supports(cpuid.AESARM) {
		t.Skip("this processor has no AES instructions")
	}
	if got := Kernels()[0]; got != "armv8" {
		t.Errorf("the fastest kernel is %s", got)
	}
}
