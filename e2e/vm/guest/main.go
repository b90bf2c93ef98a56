// Command guest is the first process of the virtual machine of e2e/vm: it mounts the kernel's file systems, loads
// modules, runs the test programs that it finds, says on the console how each ended, and switches the machine off.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// plan is what the host puts at /plan.json.
type plan struct {
	// Modules are files to load, in this order.
	Modules []string `json:"modules"`
	// Programs are run one after the other.
	Programs []program `json:"programs"`
	// Scratch is a disk for temporary files, empty for none.
	Scratch string `json:"scratch"`
}

type program struct {
	Name string   `json:"name"`
	Path string   `json:"path"`
	Args []string `json:"args"`
	Env  []string `json:"env"`
}

// mark starts every line that is for the host.
const mark = "@keyward "

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is the first process of a virtual machine; run the tests of e2e/vm instead")
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Println(mark+"broken", err)
	}
	fmt.Println(mark + "end")
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // qemu runs with -no-reboot
	select {}
}

func run() error {
	for _, m := range []struct{ fs, dir, data string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""}, {"tmpfs", "/tmp", "mode=1777,size=600m"}, {"tmpfs", "/run", "mode=755"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	b, err := os.ReadFile("/plan.json")
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	for _, m := range p.Modules {
		if err := load(m); err != nil {
			return err
		}
	}
	if err := loopback(); err != nil {
		return err
	}
	temp := "/tmp"
	if p.Scratch != "" {
		if temp, err = scratch(p.Scratch); err != nil {
			return err
		}
	}
	for _, prog := range p.Programs {
		status := "passed"
		if err := start(prog, temp); err != nil {
			status = "failed " + err.Error()
		}
		fmt.Println(mark+"program", prog.Name, status)
		for _, left := range leftovers() {
			fmt.Println(mark+"leftover", prog.Name, left)
		}
	}
	return nil
}

// loopback brings up the network that a machine has within itself.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}

// scratch makes a file system on the disk and returns where it is mounted.
func scratch(disk string) (string, error) {
	const mp = "/scratch"
	if out, err := exec.Command("/usr/sbin/mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk).CombinedOutput(); err != nil {
		return "", fmt.Errorf("mkfs.ext4 %s: %w: %s", disk, err, out)
	}
	if err := os.MkdirAll(mp, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount(disk, mp, "ext4", unix.MS_NOATIME, ""); err != nil {
		return "", fmt.Errorf("mount %s: %w", disk, err)
	}
	return mp, nil
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", filepath.Base(path), err)
	}
	return nil
}

func start(p program, temp string) error {
	cmd := exec.Command(p.Path, p.Args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "TMPDIR=" + temp, "KEYWARD_VM=1", "GOTRACEBACK=all"}
	cmd.Env = append(cmd.Env, p.Env...)
	cmd.Dir = "/tmp"
	cmd.Stdin = os.Stdin
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	return cmd.Run()
}

// leftovers are block devices and mounts that a program has not cleaned up.
func leftovers() []string {
	var out []string
	for _, pattern := range []string{"/sys/block/nbd*/pid", "/sys/block/loop*/loop/backing_file", "/sys/block/dm-*/dm/name", "/sys/block/md*/md/array_state"} {
		found, _ := filepath.Glob(pattern)
		out = append(out, found...)
	}
	f, err := os.Open("/proc/mounts")
	if err != nil {
		return append(out, err.Error())
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if fields := strings.Fields(sc.Text()); len(fields) > 2 && fields[1] != "/scratch" && (strings.HasPrefix(fields[0], "/dev/") || strings.HasPrefix(fields[2], "fuse")) {
			out = append(out, fields[1])
		}
	}
	return out
}
