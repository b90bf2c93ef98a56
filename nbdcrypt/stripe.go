package nbdcrypt

import (
	"errors"
	"fmt"

	"keyward/nbdcrypt/blockdev"
)

// NewStripe puts opened volumes together to the stripe that their records describe. The volumes are given in the order
// of their indices; Open has compared each record with its header already, so that a disk in another's place was refused
// there. A volume that is missing (nil), out of place, of another set or closed is refused by the name of its device.
//
// On success the stripe owns the volumes, and its Close closes them; on error they stay with the caller. Suspend and
// Resume go to each volume by itself.
func NewStripe(volumes []*Volume) (*blockdev.Stripe, error) {
	if len(volumes) == 0 || volumes[0] == nil || volumes[0].rec.RAID == nil {
		return nil, errors.New("stripe: member 0 is missing or no member of a stripe; its record has no raid")
	}
	first := volumes[0].rec.RAID
	if len(volumes) != first.Count {
		return nil, fmt.Errorf("stripe %s: %d members of %d; all must be open", first.Set, len(volumes), first.Count)
	}
	members := make([]blockdev.Member, len(volumes))
	for i, v := range volumes {
		if v == nil {
			return nil, fmt.Errorf("stripe %s: member %d of %d is missing; a stripe has no copy of what was on it", first.Set, i, first.Count)
		}
		r := v.rec.RAID
		switch {
		case r == nil:
			return nil, fmt.Errorf("stripe %s: device %s at place %d belongs to no stripe", first.Set, v.rec.Device, i)
		case r.Set != first.Set:
			return nil, fmt.Errorf("stripe %s: device %s at place %d belongs to stripe %s", first.Set, v.rec.Device, i, r.Set)
		case r.Index != i:
			return nil, fmt.Errorf("stripe %s: device %s is member %d and stands at place %d", first.Set, v.rec.Device, r.Index, i)
		case r.Count != first.Count || r.Chunk != first.Chunk:
			return nil, fmt.Errorf("stripe %s: device %s says %d members with chunks of %d bytes, device %s %d with %d",
				first.Set, v.rec.Device, r.Count, r.Chunk, volumes[0].rec.Device, first.Count, first.Chunk)
		case v.Status() == StatusClosed:
			return nil, fmt.Errorf("stripe %s: device %s: %w", first.Set, v.rec.Device, blockdev.ErrClosed)
		}
		members[i] = blockdev.Member{Device: v, Name: v.rec.Device}
	}
	return blockdev.NewStripe(members, first.Chunk)
}
