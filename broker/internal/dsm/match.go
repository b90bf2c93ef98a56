package dsm

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Machine is what names a machine to a manager. All of it is optional.
type Machine struct {
	// InstanceID is the cloud's name of it, UUID the SMBIOS one, HostName and Address what it says and where it calls from.
	InstanceID, UUID, HostName, Address string
}

// find returns the computer that a machine is. It never guesses: none, or more than one, is an error that says so.
func find(m Machine, computers []Computer) (c Computer, by string, err error) {
	for _, way := range []struct {
		by   string
		use  bool
		test func(Computer) bool
	}{
		{"cloud instance ID", m.InstanceID != "", func(c Computer) bool { return c.EC2.InstanceID == m.InstanceID }},
		{"SMBIOS UUID", usable(m.UUID), func(c Computer) bool { return sameUUID(m.UUID, c.BIOSUUID) }},
		{"host name and address", m.HostName != "" && m.Address != "", func(c Computer) bool {
			return strings.EqualFold(c.HostName, m.HostName) && sameAddress(c.LastIPUsed, m.Address)
		}},
	} {
		if !way.use {
			continue
		}
		var found []Computer
		for _, c := range computers {
			if way.test(c) {
				found = append(found, c)
			}
		}
		switch len(found) {
		case 0:
			continue
		case 1:
			return found[0], way.by, nil
		}
		return Computer{}, "", fmt.Errorf("%d computers of the manager (%d, %d) match by %s", len(found), found[0].ID, found[1].ID, way.by)
	}
	return Computer{}, "", fmt.Errorf("the manager knows no computer with this machine's identity")
}

// usable refuses UUIDs that many machines share.
func usable(uuid string) bool {
	b, ok := uuidBytes(uuid)
	return ok && b != [16]byte{} && strings.Trim(strings.ToLower(uuid), "f-") != ""
}

// sameUUID compares two SMBIOS UUIDs. Firmware before SMBIOS 2.6 wrote the first three fields the other way round, and
// programs differ in whether they mind, so both orders are the same machine.
func sameUUID(a, b string) bool {
	x, ok := uuidBytes(a)
	y, fine := uuidBytes(b)
	return ok && fine && (x == y || x == turned(y))
}

func uuidBytes(s string) (b [16]byte, ok bool) {
	raw, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(raw) != 16 {
		return b, false
	}
	return [16]byte(raw), true
}

func turned(b [16]byte) [16]byte {
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5] = b[5], b[4]
	b[6], b[7] = b[7], b[6]
	return b
}

func sameAddress(a, b string) bool {
	x, err := netip.ParseAddr(a)
	if err != nil {
		return false
	}
	y, err := netip.ParseAddr(b)
	return err == nil && x.Unmap().WithZone("") == y.Unmap().WithZone("")
}
