package luks2

import (
	"bytes"
	"errors"
	"fmt"

	"keyward/nbdcrypt/blockdev"
)

// Read parses the header of dev. If one copy is damaged or older, the other is used and Recovered set; nothing is
// written. A copy with a valid checksum that says something unacceptable is an error even if the other copy is fine,
// because that is no accident.
//
// The error wraps ErrNotLUKS2, ErrForeign or ErrDamaged, or is (or wraps) a FieldError, or an I/O error of dev.
func Read(dev blockdev.Device) (*Header, error) {
	if dev.Size() < keyslotsOffset {
		return nil, fmt.Errorf("read volume header: device of %d bytes: %w", dev.Size(), ErrNotLUKS2)
	}
	var copies [2]*Header
	var problems [2]error
	for i := range copies {
		buf := make([]byte, HeaderSize)
		if _, err := dev.ReadAt(buf, copyOffsets[i]); err != nil {
			// An unreadable copy is a damaged copy: bad sectors are what the second one is for.
			problems[i] = damage{fmt.Errorf("read: %w", err)}
			continue
		}
		if copies[i], problems[i] = parseHeader(buf, i); problems[i] != nil {
			copies[i] = nil
			if !errors.As(problems[i], &damage{}) {
				return nil, fmt.Errorf("read volume header: %s copy: %w", copyNames[i], problems[i])
			}
		}
	}
	return choose(copies, problems)
}

func choose(copies [2]*Header, problems [2]error) (*Header, error) {
	primary, secondary := copies[0], copies[1]
	switch {
	case primary == nil && secondary == nil:
		if isMagic(problems[0]) && isMagic(problems[1]) {
			return nil, fmt.Errorf("read volume header: %w", ErrNotLUKS2)
		}
		if foreignSize(problems[0]) {
			return nil, fmt.Errorf("read volume header: %w: %w", ErrForeign, problems[0])
		}
		return nil, fmt.Errorf("read volume header: %w: primary: %w; secondary: %w; restore it from a header backup",
			ErrDamaged, problems[0], problems[1])
	case secondary == nil:
		return recovered(primary, 1), nil
	case primary == nil:
		return recovered(secondary, 0), nil
	case primary.SeqID() > secondary.SeqID():
		return recovered(primary, 1), nil
	case primary.SeqID() < secondary.SeqID():
		return recovered(secondary, 0), nil
	case !bytes.Equal(primary.text, secondary.text) || primary.content.UUID != secondary.content.UUID:
		return nil, fmt.Errorf("read volume header: %w", badField("seqid", "both copies say %d but differ; "+
			"no program writes that, restore a header backup", primary.SeqID()))
	}
	return primary, nil
}

func recovered(h *Header, bad int) *Header {
	h.Recovered, h.Damaged = true, copyNames[bad]
	return h
}

func isMagic(err error) bool {
	var field *FieldError
	return errors.As(err, &field) && field.Field == "magic"
}

// foreignSize reports a LUKS2 header that cryptsetup made with other sizes or hashes: not damaged, only not ours.
func foreignSize(err error) bool {
	var field *FieldError
	return errors.As(err, &field) && (field.Field == "hdr_size" || field.Field == "csum_alg" || field.Field == "version")
}
