package luks2

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"keyward/nbdcrypt/blockdev"
)

const chunk = 1 << 20

// checkBlank refuses a device with any byte that is not zero in the area that Format writes.
func checkBlank(dev blockdev.Device) error {
	buf, blank := make([]byte, chunk), make([]byte, chunk)
	for off := int64(0); off < DataOffset; off += chunk {
		if _, err := dev.ReadAt(buf, off); err != nil {
			return fmt.Errorf("look for data at %d: %w", off, err)
		}
		if bytes.Equal(buf, blank) {
			continue
		}
		first := slices.IndexFunc(buf, func(b byte) bool { return b != 0 })
		return fmt.Errorf("%w: byte %d of its first 16 MiB is in use (%s); to destroy what it holds, say so (Overwrite)",
			ErrHoldsData, off+int64(first), guess(off, buf))
	}
	return nil
}

// guess names the commonest content of the first chunk; finding more is the caller's discovery.
func guess(off int64, buf []byte) string {
	switch {
	case off != 0:
		return "unknown data"
	case string(buf[:6]) == string(magicPrimary):
		return "a LUKS volume"
	case string(buf[HeaderSize:HeaderSize+6]) == string(magicSecondary):
		return "a LUKS volume with a damaged header"
	case buf[510] == 0x55 && buf[511] == 0xaa:
		return "a partition table or boot sector"
	case buf[1080] == 0x53 && buf[1081] == 0xef:
		return "an ext file system"
	}
	return "unknown data"
}

// clearArea makes [from, to) read as zeroes, durably.
func clearArea(dev blockdev.Device, from, to int64) error {
	err := blockdev.WriteZeroes(dev, from, to-from, true)
	if errors.Is(err, errors.ErrUnsupported) {
		err = overwrite(dev, from, to)
	}
	if err != nil {
		return err
	}
	return dev.Sync()
}

// overwrite writes zeroes by ordinary writes, which no layer turns into keeping the old blocks somewhere.
func overwrite(dev blockdev.Device, from, to int64) error {
	zeroes := make([]byte, chunk)
	for off := from; off < to; off += chunk {
		if _, err := dev.WriteAt(zeroes[:min(chunk, to-off)], off); err != nil {
			return fmt.Errorf("overwrite at %d: %w", off, err)
		}
	}
	return nil
}

// WipeHeader destroys both copies of the header and every passphrase slot, whatever stands there: without the broker's
// record and key the payload cannot be opened again. It is durable when WipeHeader returns nil; after an error, call it
// again.
func WipeHeader(dev blockdev.Device) error {
	end := min(dev.Size(), DataOffset)
	// The headers first: one flush, and stock tools no longer find the volume.
	for _, part := range [][2]int64{{0, min(keyslotsOffset, end)}, {min(keyslotsOffset, end), end}} {
		err := overwrite(dev, part[0], part[1])
		if err == nil {
			err = dev.Sync()
		}
		if err != nil {
			return fmt.Errorf("wipe volume header: %w; it may still be readable, try again", err)
		}
	}
	return nil
}

// Repair rewrites the damaged copy that Read found, from the other one. Call it only after Verify and VerifyKey agreed;
// the place of the damaged copy is overwritten, whatever is there now. It does nothing for a header that was not Recovered.
func Repair(dev blockdev.Device, h *Header) error {
	if !h.Recovered {
		return nil
	}
	now, err := Read(dev)
	if err != nil {
		return fmt.Errorf("repair volume header: %w", err)
	}
	if now.SeqID() != h.SeqID() || !sameContent(now, h) || now.Damaged != h.Damaged {
		return errors.New("repair volume header: the header changed since it was read; read and verify it again")
	}
	area, err := jsonAreaOf(h.text)
	if err != nil {
		return fmt.Errorf("repair volume header: %w", err)
	}
	bad := 0
	if h.Damaged == copyNames[1] {
		bad = 1
	}
	if err := writeCopy(dev, h.binary, area, bad); err != nil {
		return fmt.Errorf("repair volume header: %w", err)
	}
	if now, err = Read(dev); err != nil {
		return fmt.Errorf("repair volume header: %w", err)
	}
	if now.Recovered || !sameContent(now, h) {
		return fmt.Errorf("repair volume header: the %s copy does not read back; replace the disk", h.Damaged)
	}
	h.Recovered, h.Damaged = false, ""
	return nil
}
