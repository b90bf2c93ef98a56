package discover

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tree is what sysfs says of the block devices.
type tree struct {
	src    Sources
	nodes  map[string]*Device
	order  []string
	byDev  map[string]string   // "8:1" -> "sda1"
	slaves map[string][]string // what a stacked device stands on
}

func readTree(src Sources) (*tree, error) {
	entries, err := os.ReadDir(src.sysBlock())
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w; sysfs must be mounted", err)
	}
	t := &tree{src: src, nodes: map[string]*Device{}, byDev: map[string]string{}, slaves: map[string][]string{}}
	for _, e := range entries {
		name := e.Name()
		dir := src.sysBlock(name)
		kind, ok := kindOf(name, dir)
		if !ok {
			continue
		}
		d := t.add(name, dir, kind)
		if d == nil {
			continue
		}
		d.Model = attr(dir, "device/model")
		d.Rotational = attr(dir, "queue/rotational") == "1"
		d.Removable = attr(dir, "removable") == "1"
		for _, part := range list(dir) {
			if attr(filepath.Join(dir, part), "partition") == "" {
				continue
			}
			if p := t.add(part, filepath.Join(dir, part), KindPartition); p != nil {
				p.Parent, p.Rotational, p.Removable, p.SectorSize = name, d.Rotational, d.Removable, d.SectorSize
				d.Children = append(d.Children, part)
			}
		}
	}
	return t, nil
}

// kindOf tells devices that can hold data from those that cannot or are not set up.
func kindOf(name, dir string) (string, bool) {
	switch {
	case strings.HasPrefix(name, "ram"), strings.HasPrefix(name, "zram"), strings.HasPrefix(name, "fd"):
		return "", false
	case strings.HasPrefix(name, "loop"):
		return KindLoop, attr(dir, "loop/backing_file") != ""
	case strings.HasPrefix(name, "nbd"):
		return KindNBD, true
	case strings.HasPrefix(name, "dm-"):
		return KindDM, true
	case strings.HasPrefix(name, "md"):
		return KindMD, true
	case strings.HasPrefix(name, "sr"):
		return KindOptical, true
	}
	return KindDisk, true
}

// add reads what disks and partitions have alike; nil for a device without size.
func (t *tree) add(name, dir, kind string) *Device {
	sectors, err := strconv.ParseInt(attr(dir, "size"), 10, 64) // always counted in 512 bytes
	if err != nil || sectors <= 0 || sectors > 1<<53 {
		return nil
	}
	d := &Device{
		Name: name, Kind: kind, Size: sectors * 512,
		Path:     filepath.Join(t.src.Dev, strings.ReplaceAll(name, "!", "/")), // sysfs writes cciss/c0d0 as cciss!c0d0
		ReadOnly: attr(dir, "ro") == "1",
		Holders:  list(filepath.Join(dir, "holders")),
	}
	d.SectorSize, _ = strconv.Atoi(attr(dir, "queue/logical_block_size"))
	t.nodes[name] = d
	t.order = append(t.order, name)
	if dev := attr(dir, "dev"); dev != "" {
		t.byDev[dev] = name
	}
	t.slaves[name] = list(filepath.Join(dir, "slaves"))
	return d
}

// attr is a sysfs attribute without the line end, "" when it cannot be read.
func attr(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimRight(string(b), "\x00\n"))
}

func list(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}
