package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// nbdPath and the functions below read what the kernel says of its NBD devices under /sys/block.
func nbdPath(n int) string { return "/dev/nbd" + strconv.Itoa(n) }

func nbdSys(n int, attr string) string { return fmt.Sprintf("/sys/block/nbd%d/%s", n, attr) }

func readNumber(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// nbdConnected reports whether the device has a configuration: the kernel shows the attribute pid only then.
func nbdConnected(n int) bool {
	_, err := os.Stat(nbdSys(n, "pid"))
	return err == nil
}

// nbdOf returns the number of the connected device whose backend identifier is the volume's UUID, or -1.
func nbdOf(volumeUUID string) (int, error) {
	files, err := filepath.Glob("/sys/block/nbd*/backend")
	if err != nil {
		return -1, err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(b)) != volumeUUID {
			continue
		}
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(f)), "nbd"))
		if err == nil && nbdConnected(n) {
			return n, nil
		}
	}
	return -1, nil
}

// tuneNBD raises the request size from the kernel's default of 128 KiB. A device works without it.
func tuneNBD(n int) error {
	const wantKB = 1024
	hw, err := readNumber(nbdSys(n, "queue/max_hw_sectors_kb"))
	if err != nil {
		return err
	}
	return os.WriteFile(nbdSys(n, "queue/max_sectors_kb"), []byte(strconv.FormatInt(min(wantKB, hw), 10)), 0)
}

// waitNBDGone waits until the kernel has let go of the device's configuration.
func waitNBDGone(n int, wait time.Duration) error {
	for end := time.Now().Add(wait); nbdConnected(n); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New(nbdPath(n) + " is disconnected but the kernel keeps it: another process has it open")
		}
	}
	return nil
}
