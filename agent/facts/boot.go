package facts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// globalVariable is the GUID of the variables that the UEFI specification defines (3.3, "Globally Defined Variables").
const globalVariable = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

// secureBoot is what the firmware says of how the machine was started.
func secureBoot(_ context.Context, s Sources) ([]string, error) {
	if _, err := os.Stat(s.path("sys/firmware")); err != nil {
		return nil, fmt.Errorf("read the firmware's settings: %w", err)
	}
	if _, err := os.Stat(s.path("sys/firmware/efi")); errors.Is(err, fs.ErrNotExist) {
		return []string{"legacy BIOS"}, nil
	}
	setup, err := firmwareFlag(s, "SetupMode")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	on, err := firmwareFlag(s, "SecureBoot")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("the firmware names no SecureBoot variable, or efivarfs is not mounted on /sys/firmware/efi/efivars")
	case err != nil:
		return nil, err
	case setup: // without a platform key anybody may add keys
		return []string{"setup mode"}, nil
	case on:
		return []string{"enabled"}, nil
	}
	return []string{"disabled"}, nil
}

// firmwareFlag reads a variable of one byte; efivarfs puts four bytes of attributes before it.
func firmwareFlag(s Sources, name string) (bool, error) {
	text, err := read(s.path("sys/firmware/efi/efivars", name+"-"+globalVariable))
	if err != nil {
		return false, err
	}
	if len(text) != 5 || text[4] > 1 {
		return false, fmt.Errorf("the firmware's variable %s is not one byte of 0 or 1", name)
	}
	return text[4] == 1, nil
}

// osPatchLevel is the version with point release or service pack. Debian's os-release has the former in a file of its
// own, Ubuntu's in VERSION; others have it in VERSION_ID.
func osPatchLevel(ctx context.Context, s Sources) ([]string, error) {
	id, err := osRelease(s, "ID")
	if err != nil {
		return nil, err
	}
	if id[0] == "debian" {
		return line(s.path("etc/debian_version"))
	}
	level, err := osVersion(ctx, s)
	if err != nil {
		return nil, err
	}
	if long, err := osRelease(s, "VERSION"); err == nil {
		word, _, _ := strings.Cut(long[0], " ")
		if strings.HasPrefix(word, level[0]+".") {
			return []string{word}, nil
		}
	}
	return level, nil
}
