package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Traces names the mounts, loop devices and processes that belong to a folder.
func Traces(dir string) []string {
	var traces []string
	for _, pid := range processesOf(dir) {
		traces = append(traces, fmt.Sprintf("process %d", pid))
	}
	for _, point := range mountsUnder(dir) {
		traces = append(traces, "mount "+point)
	}
	for device, file := range loopsOf(dir) {
		traces = append(traces, "loop device "+device+" on "+file)
	}
	slices.Sort(traces)
	return traces
}

// TearDown takes apart by force what belongs to a folder: for when the program that should do it in order was killed.
func TearDown(dir string) error {
	var errs []error
	for _, pid := range processesOf(dir) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for range 50 {
		if len(processesOf(dir)) == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	points := mountsUnder(dir)
	slices.Reverse(points) // the last mounted first
	for _, point := range points {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	for device := range loopsOf(dir) {
		if err := detachLoop(device); err != nil {
			errs = append(errs, fmt.Errorf("detach %s: %w", device, err))
		}
	}
	return errors.Join(errs...)
}

func processesOf(dir string) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, file := range files {
		pid, _ := strconv.Atoi(strings.Split(file, "/")[2])
		raw, err := os.ReadFile(file)
		if err == nil && pid != os.Getpid() && strings.Contains(string(raw), dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func mountsUnder(dir string) []string {
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	var points []string
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	return points
}

func loopsOf(dir string) map[string]string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	loops := map[string]string{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err == nil && strings.HasPrefix(string(raw), dir+"/") {
			loops["/dev/"+strings.Split(file, "/")[3]] = strings.TrimSpace(string(raw))
		}
	}
	return loops
}

const loopClear = 0x4c01 // LOOP_CLR_FD of linux/loop.h

func detachLoop(device string) error {
	file, err := os.Open(device)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, file.Fd(), loopClear, 0); errno != 0 && errno != syscall.ENXIO {
		return errno
	}
	return nil
}

// Mounted reports whether something is mounted at the point.
func Mounted(point string) bool { return MountedFor(os.Getpid(), point) }

// MountedFor is Mounted as a process sees it, which may have mounts of its own.
func MountedFor(pid int, point string) bool {
	raw, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "mountinfo"))
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == point {
			return true
		}
	}
	return false
}
