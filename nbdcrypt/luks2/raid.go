package luks2

import (
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"keyward/nbdcrypt/blockdev"
)

// RAIDMember is the place of a volume in a stripe (RAID 0) of volumes, each with a header and a key of its own.
type RAIDMember struct {
	// Set is the UUID of the stripe, the same in all its members.
	Set string `json:"set"`
	// Index is the place among Count members, from 0.
	Index int `json:"index"`
	Count int `json:"count"`
	// Chunk is how many bytes lie on one member before the next one follows, as blockdev.NewStripe takes them.
	Chunk int64 `json:"chunk"`
}

// raidContent is RAIDMember as the token has it: byte counts are strings, as everywhere in LUKS2.
type raidContent struct {
	Set   string `json:"raid_set"`
	Index int    `json:"raid_index"`
	Count int    `json:"raid_count"`
	Chunk string `json:"raid_chunk"`
}

// raidFields are the names in the token: all of them or none.
var raidFields = []string{"raid_set", "raid_index", "raid_count", "raid_chunk"}

func (m *RAIDMember) content() *raidContent {
	if m == nil {
		return nil
	}
	return &raidContent{m.Set, m.Index, m.Count, strconv.FormatInt(m.Chunk, 10)}
}

func (c *raidContent) member() *RAIDMember {
	if c == nil {
		return nil
	}
	return &RAIDMember{c.Set, c.Index, c.Count, int64(number(c.Chunk))}
}

// parseRAID reads the optional fields of the token.
func parseRAID(token node) *raidContent {
	present := false
	for _, name := range raidFields {
		_, ok := token.fields[name]
		present = present || ok
	}
	if !present {
		return nil
	}
	token.size("raid_chunk")
	return &raidContent{token.text("raid_set"), token.integer("raid_index"), token.integer("raid_count"), token.text("raid_chunk")}
}

func (m *RAIDMember) validate(dataSize int64) error {
	if m == nil {
		return nil
	}
	if id, err := uuid.Parse(m.Set); err != nil || id.String() != m.Set {
		return badField("raid_set", "%.64q is no UUID in lower case", m.Set)
	}
	if m.Count < blockdev.MinStripeMembers || m.Count > blockdev.MaxStripeMembers {
		return badField("raid_count", "%d; a stripe has %d to %d members", m.Count, blockdev.MinStripeMembers, blockdev.MaxStripeMembers)
	}
	if m.Index < 0 || m.Index >= m.Count {
		return badField("raid_index", "%d of %d members; counts from 0", m.Index, m.Count)
	}
	if err := blockdev.CheckChunk(m.Chunk); err != nil {
		return badField("raid_chunk", "%v", err)
	}
	if m.Chunk > dataSize {
		return badField("raid_chunk", "%d bytes, but the volume has only %d", m.Chunk, dataSize)
	}
	return nil
}

// describe are the four values as Verify compares and shows them.
func (m *RAIDMember) describe() (set, index, count, chunk string) {
	if m == nil {
		return "none", "none", "none", "none"
	}
	return m.Set, strconv.Itoa(m.Index), strconv.Itoa(m.Count), strconv.FormatInt(m.Chunk, 10)
}

// verifyPlace says more about members of one stripe that were mixed up than their UUIDs would.
func verifyPlace(disk, rec Record) error {
	if disk.RAID == nil || rec.RAID == nil || disk.RAID.Set != rec.RAID.Set || disk.RAID.Index == rec.RAID.Index {
		return nil
	}
	place := func(r Record) string { return fmt.Sprintf("%d (device %s)", r.RAID.Index, r.Device) }
	return &MismatchError{"raid_index", place(disk), place(rec)}
}
