package mount

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/agent/internal/discover"
)

// TestMain lets the test binary play a process that holds a file system: it opens, maps or enters what it is told and
// waits for its input to end.
func TestMain(m *testing.M) {
	if spec := os.Getenv("KEYWARD_TEST_HOLD"); spec != "" {
		hold(strings.SplitN(spec, ":", 2))
		return
	}
	os.Exit(m.Run())
}

func hold(spec []string) {
	var err error
	switch spec[0] {
	case "open":
		_, err = unix.Open(spec[1], unix.O_RDWR, 0)
	case "cwd":
		err = os.Chdir(spec[1])
	case "map":
		var fd int
		if fd, err = unix.Open(spec[1], unix.O_RDWR, 0); err == nil {
			_, err = unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
			unix.Close(fd)
		}
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("ready\n")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// holder starts such a process.
func holder(t *testing.T, spec string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KEYWARD_TEST_HOLD="+spec)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("holder %s: %q %v", spec, line, err)
	}
	return cmd
}

// loop makes a loop device of a sparse file and frees it at the end of the test.
func loop(t *testing.T, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for loop devices and mounts")
	}
	img := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", img).Output()
	if err != nil {
		t.Skipf("needs losetup and a free loop device: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "-d", dev).Run(); err != nil {
			t.Errorf("free %s: %v", dev, err)
		}
	})
	return dev
}

func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := findTool(name); err != nil {
		t.Skip(err)
	}
}

// formatted is a loop device with a file system.
func formatted(t *testing.T, fsType string) string {
	t.Helper()
	needTool(t, "mkfs."+fsType)
	dev := loop(t, 320<<20)
	if err := Format(t.Context(), FormatOptions{Device: dev, Type: fsType}); err != nil {
		t.Fatal(err)
	}
	return dev
}

// mounted mounts dev below a temporary folder.
func mounted(t *testing.T, dev, fsType string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "made", "here")
	if err := Mount(t.Context(), Options{Source: dev, Target: target, Type: fsType}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Unmount(context.Background(), target, UnmountOptions{Kill: true, KillWait: 5 * time.Second, Lazy: true}); err != nil {
			t.Error(err)
		}
	})
	return target
}

func TestMount_everyFileSystemKeepsItsFiles(t *testing.T) {
	t.Parallel()
	for _, fsType := range FileSystems() {
		t.Run(fsType, func(t *testing.T) {
			t.Parallel()
			dev := formatted(t, fsType)
			if c, err := discover.ProbeFile(dev); err != nil || !c.Has(fsType) {
				t.Fatalf("made %s (%v), want %s", c, err, fsType)
			}
			target := mounted(t, dev, fsType)
			if st, err := os.Stat(filepath.Dir(target)); err != nil || st.Mode().Perm() != 0o755 {
				t.Errorf("mount point was made as %v (%v), want 0755", st.Mode(), err)
			}
			info, err := At(target)
			if err != nil || info == nil || info.FSType != fsType || info.Source != dev {
				t.Fatalf("mount table has %+v, %v", info, err)
			}
			if !strings.Contains(info.Options, "nodev") || !strings.Contains(info.Options, "nosuid") {
				t.Errorf("mounted with %s: device nodes or set-uid programs on the volume would be honoured", info.Options)
			}
			if err := os.WriteFile(filepath.Join(target, "file"), []byte("kept"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := Unmount(t.Context(), target, UnmountOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := Unmount(t.Context(), target, UnmountOptions{}); err != nil {
				t.Errorf("second unmount: %v", err)
			}
			if err := Check(t.Context(), dev, fsType, nil); err != nil {
				t.Error(err)
			}
			if err := Mount(t.Context(), Options{Source: dev, Target: target, Type: fsType, ReadOnly: true}); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(filepath.Join(target, "file")); err != nil || string(b) != "kept" {
				t.Errorf("file holds %q, %v", b, err)
			}
			if err := os.WriteFile(filepath.Join(target, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
				t.Errorf("writing to a read-only mount: %v, want EROFS", err)
			}
		})
	}
}

func TestMount_refusesWhatItMustNotHide(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(full, "somebodys"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": "/etc", "deep": "/usr/share", "broken": filepath.Join(dir, "nowhere")} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for target, want := range map[string]error{
		"/": ErrSystemPath, "//": ErrSystemPath, "/usr": ErrSystemPath, "/usr/local/secure": ErrSystemPath, "/etc/x": ErrSystemPath,
		"/proc": ErrSystemPath, "/sys/fs": ErrSystemPath, "/dev/shm": ErrSystemPath, "/boot/efi": ErrSystemPath, "/var": ErrSystemPath,
		"/home": ErrSystemPath, "/mnt/../etc": ErrSystemPath, "/root": ErrSystemPath, dir + "/link": ErrSystemPath,
		dir + "/link/new": ErrSystemPath, dir + "/deep": ErrSystemPath, full: ErrNotEmpty, "relative": nil, "": nil, dir + "/broken": nil,
	} {
		err := Mount(t.Context(), Options{Source: "/dev/null", Target: target, Type: "ext4"})
		if err == nil {
			_ = Detach(target)
			t.Fatalf("%q: mounted", target)
		}
		if want != nil && !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", target, err, want)
		}
	}
	for _, ok := range []string{"/mnt/secure", "/srv/data", "/home/user/data", "/var/lib/postgresql", "/data", "/var/www"} {
		if _, err := CheckTarget(ok); err != nil {
			t.Errorf("%s is refused: %v", ok, err)
		}
	}
	if err := Mount(t.Context(), Options{Source: "/dev/null", Target: full, Type: "vfat"}); err == nil || !strings.Contains(err.Error(), "ext4") {
		t.Errorf("unsupported type: %v", err)
	}
}

func TestMount_nonEmptyTargetWhenAllowedAndNeverOverAMount(t *testing.T) {
	t.Parallel()
	dev := formatted(t, "ext4")
	target := filepath.Join(t.TempDir(), "full")
	if err := os.MkdirAll(filepath.Join(target, "somebodys"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Mount(t.Context(), Options{Source: dev, Target: target, Type: "ext4", AllowNonEmpty: true}); err != nil {
		t.Fatal(err)
	}
	defer Unmount(context.Background(), target, UnmountOptions{})
	err := Mount(t.Context(), Options{Source: dev, Target: target, Type: "ext4", AllowNonEmpty: true})
	if !errors.Is(err, ErrMounted) {
		t.Errorf("mounting twice: %v, want ErrMounted", err)
	}
}

func TestUnmount_saysWhoIsInTheWay(t *testing.T) {
	t.Parallel()
	dev := formatted(t, "ext4")
	for _, tc := range []struct{ spec, how string }{{"open:FILE", "open file"}, {"map:FILE", "mapped file"}, {"cwd:DIR", "working directory"}} {
		t.Run(tc.how, func(t *testing.T) {
			target := mounted(t, dev, "ext4")
			file := filepath.Join(target, "held")
			if err := os.WriteFile(file, make([]byte, 4096), 0o600); err != nil {
				t.Fatal(err)
			}
			p := holder(t, strings.NewReplacer("FILE", file, "DIR", target).Replace(tc.spec))
			err := Unmount(t.Context(), target, UnmountOptions{Grace: 60 * time.Millisecond})
			var busy *BusyError
			if !errors.As(err, &busy) || !errors.Is(err, ErrBusy) {
				t.Fatalf("unmount: %v, want a BusyError", err)
			}
			if len(busy.Users) != 1 || busy.Users[0].PID != p.Process.Pid || busy.Users[0].How != tc.how || !strings.HasPrefix(busy.Users[0].Path, target) {
				t.Errorf("users %+v, want process %d (%s)", busy.Users, p.Process.Pid, tc.how)
			}
			if err := Unmount(t.Context(), target, UnmountOptions{Kill: true}); err != nil {
				t.Errorf("unmount with kill: %v", err)
			}
			if m, _ := IsMounted(target); m {
				t.Error("still mounted")
			}
		})
	}
}

func TestUnmount_lazyAsTheLastResort(t *testing.T) {
	t.Parallel()
	dev := formatted(t, "ext4")
	target := mounted(t, dev, "ext4")
	p := holder(t, "cwd:"+target)
	if err := Unmount(t.Context(), target, UnmountOptions{Lazy: true}); err != nil {
		t.Fatal(err)
	}
	if m, _ := IsMounted(target); m {
		t.Error("still mounted")
	}
	if err := p.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the process was harmed: %v", err)
	}
	_ = p.Process.Kill()
	_ = p.Wait()
}

func TestUsers_mountsAndLoopDevicesInside(t *testing.T) {
	t.Parallel()
	target := mounted(t, formatted(t, "ext4"), "ext4")
	inner := filepath.Join(target, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", inner, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(target, "disk.img")
	if err := os.WriteFile(img, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", img).Output()
	if err != nil {
		t.Fatal(err)
	}
	dev := strings.TrimSpace(string(out))
	users, err := Users(target)
	if err != nil {
		t.Error(err)
	}
	var said []string
	for _, u := range users {
		said = append(said, u.String())
	}
	all := strings.Join(said, "; ")
	for _, want := range []string{"mount (mounted inside at " + inner + ")", "loop device " + filepath.Base(dev)} {
		if !strings.Contains(all, want) {
			t.Errorf("%q does not name %q", all, want)
		}
	}
	if err := exec.Command("losetup", "-d", dev).Run(); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(inner, 0); err != nil {
		t.Error(err)
	}
}

func TestUnmount_writesOutFirst(t *testing.T) {
	t.Parallel()
	dev := formatted(t, "xfs")
	target := mounted(t, dev, "xfs")
	if err := os.WriteFile(filepath.Join(target, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// With a context that has ended nothing is waited for; the mount stays or goes, but the call returns.
	_ = Unmount(ctx, target, UnmountOptions{})
	if err := Unmount(t.Context(), target, UnmountOptions{Grace: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if m, _ := IsMounted(target); m {
		t.Error("still mounted")
	}
}
