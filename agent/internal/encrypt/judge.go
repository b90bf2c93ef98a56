// Package encrypt carries out encrypt jobs: a new volume header and file system on a device that holds nothing, or
// whose content the user gave up by word. Between looking and writing nothing else happens.
package encrypt

import (
	"errors"
	"fmt"

	"keyward/agent/internal/discover"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/luks2"
)

// ErrHoldsData is returned for a device that is not empty when nobody said that it may be destroyed.
var ErrHoldsData = errors.New("the device holds data")

// judge decides whether the device may be overwritten for this job. begun says that this job has already written to this
// device and was interrupted.
func judge(dev blockdev.Device, device, account string, destroy, begun bool) (discover.Contents, error) {
	contents, err := discover.Probe(dev, dev.Size())
	if err != nil {
		return contents, fmt.Errorf("look at what the device holds: %w", err)
	}
	if contents.Empty || destroy {
		return contents, nil
	}
	if begun && ownTraces(dev, contents, device, account) {
		return contents, nil
	}
	return contents, fmt.Errorf("%w (%s); choose another device, or ask for encryption again with the word that destroys it",
		ErrHoldsData, contents)
}

// ownTraces reports whether all that is on the device is the header that the interrupted job wrote. Nothing but that
// header is recognised on it: what lies behind the header is noise.
func ownTraces(dev blockdev.Device, contents discover.Contents, device, account string) bool {
	for _, s := range contents.Found {
		if s.Type != "LUKS2" {
			return false
		}
	}
	header, err := luks2.Read(dev)
	if err == nil {
		r := header.Record()
		return r.Device == device && r.Account == account
	}
	// The kill came while the first copy was being written. Then nothing is behind it: the device was empty before.
	return !errors.Is(err, luks2.ErrForeign) && onlyHeaderArea(dev)
}

// onlyHeaderArea reports whether every byte from the end of the two header copies to the start of the payload is zero.
func onlyHeaderArea(dev blockdev.Device) bool {
	buf := make([]byte, 64<<10)
	for off := int64(2 * luks2.HeaderSize); off < luks2.DataOffset; off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), luks2.DataOffset-off)]
		if _, err := dev.ReadAt(p, off); err != nil {
			return false
		}
		for _, b := range p {
			if b != 0 {
				return false
			}
		}
	}
	return true
}
