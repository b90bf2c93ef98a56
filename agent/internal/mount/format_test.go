package mount

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keyward/agent/internal/discover"
)

func TestFormat_neverOverwritesWithoutTheWord(t *testing.T) {
	t.Parallel()
	dev := formatted(t, "xfs")
	err := Format(t.Context(), FormatOptions{Device: dev, Type: "ext4"})
	if !errors.Is(err, ErrHoldsData) || !strings.Contains(err.Error(), "xfs file system") {
		t.Errorf("formatting over xfs: %v, want a refusal that names it", err)
	}
	if c, err := discover.ProbeFile(dev); err != nil || !c.Has("xfs") {
		t.Errorf("the refused device now holds %s, %v", c, err)
	}
	if err := Format(t.Context(), FormatOptions{Device: dev, Type: "ext4", Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	if c, err := discover.ProbeFile(dev); err != nil || !c.Has("ext4") {
		t.Errorf("with the word it holds %s, %v", c, err)
	}
}

func TestFormat_neverAMountedDevice(t *testing.T) {
	t.Parallel()
	dev := formatted(t, "ext4")
	target := mounted(t, dev, "ext4")
	if err := os.WriteFile(filepath.Join(target, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Format(t.Context(), FormatOptions{Device: dev, Type: "xfs", Overwrite: true}); err == nil {
		t.Fatal("formatted under a mount")
	}
	if b, err := os.ReadFile(filepath.Join(target, "f")); err != nil || string(b) != "kept" {
		t.Errorf("file is %q, %v", b, err)
	}
}

func TestFormat_labelUUIDAndProgress(t *testing.T) {
	t.Parallel()
	const id = "11223344-5566-7788-99aa-bbccddeeff00"
	for _, fsType := range FileSystems() {
		t.Run(fsType, func(t *testing.T) {
			t.Parallel()
			needTool(t, "mkfs."+fsType)
			dev := loop(t, 1<<30)
			var last float64
			var steps []string
			err := Format(t.Context(), FormatOptions{Device: dev, Type: fsType, Label: "data-1", UUID: id, Progress: func(f float64, step string) {
				if f < last || f > 1 {
					t.Errorf("progress went from %v to %v", last, f)
				}
				last = f
				steps = append(steps, step)
			}})
			if err != nil {
				t.Fatal(err)
			}
			if last != 1 || len(steps) < 2 {
				t.Errorf("progress ended at %v after %q", last, steps)
			}
			c, err := discover.ProbeFile(dev)
			if err != nil || len(c.Found) != 1 || c.Found[0].Label != "data-1" || c.Found[0].UUID != id {
				t.Errorf("made %s, %v", c, err)
			}
		})
	}
}

func TestFormat_refusesArgumentsThatCouldBeOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]FormatOptions{
		"type":           {Type: "ext4 -O x"},
		"label option":   {Type: "ext4", Label: "-O"},
		"label blanks":   {Type: "ext4", Label: "a b"},
		"label too long": {Type: "xfs", Label: "thirteenchars"},
		"uuid":           {Type: "ext4", UUID: "random"},
		"no device":      {Type: "ext4", Device: filepath.Join(t.TempDir(), "none")},
		"not a device":   {Type: "ext4", Device: t.TempDir()},
	} {
		if err := Format(t.Context(), o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFormat_errorCarriesWhatTheToolSaid(t *testing.T) {
	t.Parallel()
	needTool(t, "mkfs.xfs")
	err := Format(t.Context(), FormatOptions{Device: loop(t, 1<<20), Type: "xfs"})
	if err == nil || !strings.Contains(err.Error(), "mkfs.xfs failed") || !strings.Contains(err.Error(), "too small") {
		t.Errorf("mkfs.xfs on 1 MiB: %v", err)
	}
}

func TestFormat_endsWithItsContext(t *testing.T) {
	t.Parallel()
	needTool(t, "mkfs.ext4")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Format(ctx, FormatOptions{Device: loop(t, 16<<20), Type: "ext4"}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}

func TestProgress_readsTheCountersOfMke2fs(t *testing.T) {
	t.Parallel()
	out := "mke2fs 1.47.0 (5-Feb-2023)\nCreating filesystem with 1310720 4k blocks and 327680 inodes\n\n" +
		"Allocating group tables:  0/40\b\b\b\b\b     \b\b\b\b\bdone                            \n" +
		"Writing inode tables:  0/40\b\b\b\b\b10/40\b\b\b\b\b     \b\b\b\b\bdone                            \n" +
		"Creating journal (16384 blocks): done\nWriting superblocks and filesystem accounting information:  0/40\b\b\b\b\b20/40\b\b\b\b\bdone\n\n"
	var got []float64
	last := readLines(strings.NewReader(out), newProgress(func(f float64, _ string) { got = append(got, f) }))
	want := []float64{0, 0.25, 0.3125, 0.75, 0.875}
	if len(got) != len(want) {
		t.Fatalf("progress %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("progress %v, want %v", got, want)
			break
		}
	}
	if len(last) != firstLines+lastLines || !strings.HasPrefix(last[0], "mke2fs 1.47") || last[len(last)-1] != "done" {
		t.Errorf("kept %q, want the first %d and last %d lines", last, firstLines, lastLines)
	}
}

func TestCheck_repairsOnlyWhatIsSafe(t *testing.T) {
	t.Parallel()
	needTool(t, "debugfs")
	dev := formatted(t, "ext4")
	// A wrong free-block count is repaired by itself.
	if out, err := exec.Command("debugfs", "-w", "-R", "set_super_value free_blocks_count 17", dev).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := exec.Command("debugfs", "-w", "-R", "set_super_value state 2", dev).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if err := Check(t.Context(), dev, "ext4", nil); err != nil {
		t.Errorf("a harmless error: %v", err)
	}
	// A root directory that is no directory is not.
	for _, cmd := range []string{"clri <2>", "set_super_value state 2"} {
		if out, err := exec.Command("debugfs", "-w", "-R", cmd, dev).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	err := Check(t.Context(), dev, "ext4", nil)
	if !errors.Is(err, ErrNeedsRepair) || !strings.Contains(err.Error(), dev) {
		t.Errorf("a damaged file system: %v, want ErrNeedsRepair naming the device", err)
	}
	if err := Check(t.Context(), dev, "xfs", nil); err != nil {
		t.Errorf("xfs is left to its mount: %v", err)
	}
}
