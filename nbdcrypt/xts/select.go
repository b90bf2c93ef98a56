package xts

import (
	"fmt"
	"strings"
	"sync"
)

// kernel is one implementation of AES-XTS.
type kernel interface {
	name() string
	// available reports whether this processor can run it.
	available() bool
	// scheduleSize is how many bytes of memory expand needs.
	scheduleSize() int
	// expand lays out the schedules of both keys (16, 24 or 32 bytes each) in mem, which is zeroed, aligned to 64
	// bytes and outside the Go heap. It leaves no copy of key material anywhere else.
	expand(mem, dataKey, tweakKey []byte) (schedule, error)
}

// schedule is an expanded key. dst and src have one length, a multiple of sectorSize and at most maxRun, and are the
// same memory or apart.
type schedule interface {
	encrypt(dst, src []byte, sectorSize int, tweak, step uint64)
	decrypt(dst, src []byte, sectorSize int, tweak, step uint64)
}

// registered holds every kernel of this build, from the slowest to the fastest. Files of one architecture append to it
// in their init.
var registered = []kernel{generic{}}

// usable are the registered kernels that this processor runs, fastest first. It is computed after all init functions.
var usable = sync.OnceValue(func() (list []kernel) {
	for i := len(registered) - 1; i >= 0; i-- {
		if registered[i].available() {
			list = append(list, registered[i])
		}
	}
	return list
})

func best() kernel { return usable()[0] }

// Kernels are the names of the kernels that this processor can run, fastest first. New takes the first.
func Kernels() []string {
	var names []string
	for _, k := range usable() {
		names = append(names, k.name())
	}
	return names
}

func byName(name string) (kernel, error) {
	for _, k := range usable() {
		if k.name() == name {
			return k, nil
		}
	}
	return nil, fmt.Errorf("XTS kernel %q: this processor and build have %s", name, strings.Join(Kernels(), ", "))
}
