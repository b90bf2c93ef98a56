// Package sector is what the sector ciphers (xts, essiv) share: a Cipher that checks every argument before a kernel
// sees it and keeps key schedules in keymem memory, the registry of kernels, and the self-test.
package sector

import (
	"fmt"
	"strings"
	"sync"
)

// Kernel is one implementation of a sector cipher: generic Go, or assembly for certain processors.
type Kernel interface {
	Name() string
	// Available reports whether this processor can run it.
	Available() bool
	// ScheduleSize is how many bytes of memory Expand needs.
	ScheduleSize() int
	// Expand lays out the schedules of key in mem, which is zeroed, aligned to 64 bytes and outside the Go heap. It
	// leaves no copy of key material anywhere else.
	Expand(mem, key []byte) (Schedule, error)
}

// Schedule is an expanded key. dst and src have one length, a multiple of sectorSize and at most MaxRun but not zero,
// and are the same memory or apart.
type Schedule interface {
	Encrypt(dst, src []byte, sectorSize int, tweak, step uint64)
	Decrypt(dst, src []byte, sectorSize int, tweak, step uint64)
}

// Registry holds the kernels of one cipher.
type Registry struct {
	cipher string
	all    []Kernel
	usable func() []Kernel
	asked  bool
}

// NewRegistry starts with the kernel that runs everywhere. cipher names the cipher in messages.
func NewRegistry(cipher string, generic Kernel) *Registry {
	r := &Registry{cipher: cipher, all: []Kernel{generic}}
	// Computed on first use, after the init functions of all files have added theirs.
	r.usable = sync.OnceValue(func() (list []Kernel) {
		r.asked = true
		for i := len(r.all) - 1; i >= 0; i-- {
			if r.all[i].Available() {
				list = append(list, r.all[i])
			}
		}
		return list
	})
	return r
}

// Add appends kernels, each faster than those before. Only init functions call it; it panics if a choice was made
// before, which would have been a slow one that nobody notices.
func (r *Registry) Add(kernels ...Kernel) {
	if r.asked {
		panic("sector: a kernel of " + r.cipher + " is added after the first choice of one")
	}
	r.all = append(r.all, kernels...)
}

// Usable are the kernels that this processor runs, fastest first.
func (r *Registry) Usable() []Kernel { return r.usable() }

// Best is the fastest kernel that this processor runs.
func (r *Registry) Best() Kernel { return r.usable()[0] }

// Names are those of Usable.
func (r *Registry) Names() []string {
	var names []string
	for _, k := range r.usable() {
		names = append(names, k.Name())
	}
	return names
}

// ByName finds a usable kernel.
func (r *Registry) ByName(name string) (Kernel, error) {
	for _, k := range r.usable() {
		if k.Name() == name {
			return k, nil
		}
	}
	return nil, fmt.Errorf("%s kernel %q: this processor and build have %s", r.cipher, name, strings.Join(r.Names(), ", "))
}
