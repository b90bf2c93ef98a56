package discover

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// identify gives every device its identity. Two devices that claim the same one (cheap controllers repeat serial numbers;
// paths of a multipath disk share it rightly) both fall back to their slot, because a key must never meet the wrong disk.
func (t *tree) identify() {
	links := t.byID()
	seen := map[string][]*Device{}
	for _, n := range t.order {
		d := t.nodes[n]
		d.Serial = t.serial(d)
		if d.Kind != KindPartition {
			d.Identity = t.identityOf(d, links[n])
			seen[d.Identity] = append(seen[d.Identity], d)
		}
	}
	for _, same := range seen {
		if len(same) > 1 {
			for _, d := range same {
				d.Identity = t.slot(d)
			}
		}
	}
	for _, n := range t.order {
		if d := t.nodes[n]; d.Kind == KindPartition {
			number := attr(t.src.sysBlock(d.Parent, d.Name), "partition")
			d.Identity = t.nodes[d.Parent].Identity + "-part" + number
		}
	}
}

func (t *tree) identityOf(d *Device, link string) string {
	dir := t.src.sysBlock(d.Name)
	for _, a := range []string{"wwid", "device/wwid"} {
		if v := word(attr(dir, a)); v != "" {
			return "wwn:" + v
		}
	}
	if d.Serial != "" {
		return "serial:" + strings.TrimPrefix(word(d.Model)+"_"+word(d.Serial), "_")
	}
	for _, a := range []string{"dm/uuid", "md/uuid"} {
		if v := word(attr(dir, a)); v != "" {
			return "uuid:" + v
		}
	}
	if link != "" {
		return "by-id:" + link
	}
	return t.slot(d)
}

// serial is virtio's, or that of the SCSI, NVMe or MMC device.
func (t *tree) serial(d *Device) string {
	if d.Kind == KindPartition {
		return ""
	}
	for _, a := range []string{"serial", "device/serial"} {
		if v := attr(t.src.sysBlock(d.Name), a); v != "" {
			return v
		}
	}
	return ""
}

// slot names the place on the bus: where sysfs has the device, without the part that is only its number.
func (t *tree) slot(d *Device) string {
	path, err := filepath.EvalSymlinks(t.src.sysBlock(d.Name))
	if err == nil {
		devices, derr := filepath.EvalSymlinks(filepath.Join(t.src.Sys, "devices"))
		if derr == nil {
			if rel, ok := strings.CutPrefix(path, devices+"/"); ok && !strings.HasPrefix(rel, "virtual/") {
				rel, _, _ = strings.Cut(rel, "/block/")
				return "bus:" + rel
			}
		}
	}
	return "name:" + d.Name
}

// byID maps a device to its best link in /dev/disk/by-id. Links made from what the device holds are left out: they change
// when it is encrypted.
func (t *tree) byID() map[string]string {
	dir := filepath.Join(t.src.Dev, "disk/by-id")
	best := map[string]string{}
	for _, l := range list(dir) {
		if slices.ContainsFunc([]string{"lvm-pv-", "dm-", "md-name-", "bcache-"}, func(p string) bool { return strings.HasPrefix(l, p) }) {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, l))
		if err != nil {
			continue
		}
		name := filepath.Base(target)
		if best[name] == "" || strings.HasPrefix(l, "wwn-") && !strings.HasPrefix(best[name], "wwn-") {
			best[name] = l
		}
	}
	return best
}

// word joins the words of a padded field.
func word(s string) string { return strings.Join(strings.Fields(s), "_") }
