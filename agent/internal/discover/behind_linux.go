package discover

import (
	"slices"
	"strings"
)

// unread is the ProbeError of a device that is not read on purpose.
const unread = "not read: it is served by a program, perhaps this one, and a read may wait for it"

// behindPrograms names the NBD devices and everything that stands on them: partitions, stacked devices, and loop devices on
// files of their file systems. A read of those waits for as long as the program that serves the device does not answer; when
// that is an agent which was killed, its successor would wait for itself.
func (t *tree) behindPrograms() (map[string]bool, error) {
	mounts, err := t.mounts()
	if err != nil {
		return nil, err
	}
	u := &use{t: t, mounts: mounts}
	behind := map[string]bool{}
	stands := func(name string) bool {
		d := t.nodes[name]
		switch {
		case d.Kind == KindNBD, behind[d.Parent]:
			return true
		case d.Kind == KindLoop:
			on := u.containing(strings.TrimSuffix(attr(t.src.sysBlock(name), "loop/backing_file"), " (deleted)"))
			if on == nil {
				return false
			}
			below, _ := u.devicesOf(on, nil)
			return slices.ContainsFunc(below, func(n string) bool { return behind[n] })
		}
		return slices.ContainsFunc(t.slaves[name], func(n string) bool { return behind[n] })
	}
	for again := true; again; {
		again = false
		for _, name := range t.order {
			if !behind[name] && stands(name) {
				behind[name], again = true, true
			}
		}
	}
	return behind, nil
}
