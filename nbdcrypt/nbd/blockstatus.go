package nbd

import (
	"encoding/binary"
	"fmt"

	"keyward/nbdcrypt/blockdev"
)

// blockStatus fills r.data with the descriptors of base:allocation for r's range, from its offset on. A device that
// does not know what is allocated is data throughout.
func (s *session) blockStatus(r *request) error {
	length := int64(r.length)
	extents := []blockdev.Extent{{Length: length}}
	if s.target.extenter != nil {
		var err error
		if extents, err = s.target.extenter.Extents(int64(r.offset), length); err != nil {
			return err
		}
	}
	most := len(r.data) / extentSize
	if r.flags&cmdFlagReqOne != 0 {
		most = 1
	}
	descriptors := describe(extents, length, int64(s.minBlock), most)
	if len(descriptors) == 0 {
		return fmt.Errorf("the device described none of the %d bytes at %d", r.length, r.offset)
	}
	b := r.data[:0]
	for _, d := range descriptors {
		b = binary.BigEndian.AppendUint32(b, d.length)
		b = binary.BigEndian.AppendUint32(b, d.state)
	}
	r.data = b
	return nil
}

// descriptor is one entry of a BLOCK_STATUS reply.
type descriptor struct{ length, state uint32 }

// describe turns extents into at most most descriptors of a range of length bytes, neighbours of the same state merged.
// Every descriptor is a multiple of block, as the protocol demands: a block that is in two extents is data.
func describe(extents []blockdev.Extent, length, block int64, most int) []descriptor {
	var out []descriptor
	add := func(n int64, state uint32) bool {
		if n == 0 {
			return true
		}
		if last := len(out) - 1; last >= 0 && out[last].state == state {
			out[last].length += uint32(n)
			return true
		}
		if len(out) == most {
			return false
		}
		out = append(out, descriptor{uint32(n), state})
		return true
	}
	up := func(n int64) int64 { return (n + block - 1) &^ (block - 1) }
	// described is how far the descriptors reach, pos how far the extents that have been looked at.
	var described, pos int64
	for _, e := range extents {
		if e.Length <= 0 || pos == length {
			break
		}
		start, state := pos, stateOf(e)
		pos += min(e.Length, length-pos)
		end := up(pos)
		if state != 0 {
			// Only blocks that are wholly its own.
			start, end = up(start), pos&^(block-1)
		}
		if start = max(start, described); end <= start {
			continue
		}
		if !add(start-described, 0) || !add(end-start, state) {
			return out
		}
		described = end
	}
	// A last block that belongs to several extents.
	add(up(pos)-described, 0)
	return out
}

func stateOf(e blockdev.Extent) uint32 {
	var state uint32
	if e.Hole {
		state |= stateHole
	}
	if e.Zero {
		state |= stateZero
	}
	return state
}
