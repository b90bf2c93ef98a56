package offline

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"keyward/agent/internal/discover"
)

// LUKS2 is the signature by which a volume's disk is recognised.
const luks2Type = "LUKS2"

// candidate is a disk that holds a LUKS2 header.
type candidate struct{ path, uuid string }

// find returns the disk of each volume, in order: among the paths that were given, or else among all block devices of this
// machine. Which volume a disk holds is only the disk's claim; opening it compares everything.
func find(ctx context.Context, uuids []string, paths []string) ([]string, error) {
	all, err := candidates(ctx, paths)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(uuids))
	for i, id := range uuids {
		for _, c := range all {
			if !strings.EqualFold(c.uuid, id) {
				continue
			}
			if out[i] != "" {
				return nil, fmt.Errorf("volume %s is on %s and on %s: one is a copy of the other; name the one that you mean with --disk", id, out[i], c.path)
			}
			out[i] = c.path
		}
		if out[i] == "" {
			where := "on no disk of this machine"
			if len(paths) > 0 {
				where = "not on " + strings.Join(paths, ", ")
			}
			return nil, fmt.Errorf("volume %s is %s; attach its disk, or name the disk or image file with --disk", id, where)
		}
	}
	return out, nil
}

func candidates(ctx context.Context, paths []string) ([]candidate, error) {
	var out []candidate
	add := func(path string, c discover.Contents) {
		for _, s := range c.Found {
			if s.Type == luks2Type && s.UUID != "" {
				out = append(out, candidate{path, s.UUID})
			}
		}
	}
	for _, path := range paths {
		c, err := discover.ProbeFile(path)
		if err != nil {
			return nil, err
		}
		if path, err = filepath.Abs(path); err != nil {
			return nil, err
		}
		add(path, c)
	}
	if len(paths) > 0 {
		return out, nil
	}
	devices, err := discover.Devices(ctx, discover.Sources{})
	if err != nil {
		return nil, fmt.Errorf("look for disks: %w; name the disk with --disk", err)
	}
	for _, d := range devices {
		add(d.Path, d.Contents)
	}
	return out, nil
}
