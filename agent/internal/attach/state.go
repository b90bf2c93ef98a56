package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// state is what a later agent must know to clean up after, or to adopt, an attachment whose agent died. It is written
// before the thing it describes exists, so that a crash in between leaves a state file without a device, never the reverse.
type state struct {
	VolumeUUID string `json:"volume_uuid"`
	Name       string `json:"name"`
	Kind       string `json:"kind"`
	// Connections of kernel NBD. The kernel does not tell: it has at most one queue for each processor.
	Connections int `json:"connections,omitempty"`
	// Owner is the process that serves the device.
	Owner owner `json:"owner"`
}

// owner identifies a process beyond the reuse of its PID and beyond a reboot.
type owner struct {
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // field 22 of /proc/PID/stat, clock ticks since boot
	BootID string `json:"boot_id"`
	// Life is another one after an exec, which changes neither PID nor start.
	Life string `json:"life"`
}

// life names this program's run.
var life = uuid.NewString()

func runDir(runtimeDir, volumeUUID string) string { return filepath.Join(runtimeDir, volumeUUID) }
func stateFile(dir string) string                 { return filepath.Join(dir, "attachment.json") }
func fuseDir(dir string) string                   { return filepath.Join(dir, "fuse") }

// exportName is the name of the file inside the FUSE mount. It holds the UUID because the kernel shows nothing but this
// name once the mount around it has been detached.
func exportName(volumeUUID string) string { return volumeUUID + ".raw" }

func newState(o Options, kind string) state {
	return state{VolumeUUID: o.VolumeUUID, Name: o.Name, Kind: kind, Owner: self()}
}

// refuseAttached is the guard against serving one volume twice.
func refuseAttached(o Options) error {
	prev, err := readState(o.RuntimeDir, o.VolumeUUID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("attach %q: %w", o.Name, err)
	case prev.Owner.alive():
		return fmt.Errorf("attach %q: %w by process %d", o.Name, ErrAttached, prev.Owner.PID)
	}
	return fmt.Errorf("attach %q: %w by an agent that has died; call Stale, then Reattach or attach again", o.Name, ErrAttached)
}

// save writes the state file, and the folders above it as 0700, by rename.
func (s state) save(runtimeDir string) error {
	dir := runDir(runtimeDir, s.VolumeUUID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the runtime folder of volume %s: %w", s.VolumeUUID, err)
	}
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the state of volume %s: %w", s.VolumeUUID, err)
	}
	tmp := stateFile(dir) + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("write the state of volume %s: %w", s.VolumeUUID, err)
	}
	if err := os.Rename(tmp, stateFile(dir)); err != nil {
		return fmt.Errorf("write the state of volume %s: %w", s.VolumeUUID, err)
	}
	return nil
}

// remove deletes the state and the folder. It never descends into the FUSE mount point: rmdir fails on a mounted one.
func (s state) remove(runtimeDir string) error {
	dir := runDir(runtimeDir, s.VolumeUUID)
	var errs []error
	for _, p := range []string{fuseDir(dir), stateFile(dir) + ".new", stateFile(dir), dir} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the runtime folder of volume %s: %w", s.VolumeUUID, err)
	}
	return nil
}

// readStates returns every state below runtimeDir. A folder whose state cannot be read is reported, not skipped silently.
func readStates(runtimeDir string) ([]state, error) {
	entries, err := os.ReadDir(runtimeDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attachments in %s: %w", runtimeDir, err)
	}
	var out []state
	var errs []error
	for _, e := range entries {
		id, err := uuid.Parse(e.Name())
		if err != nil || id.String() != e.Name() || !e.IsDir() {
			continue // the agent keeps other things here too
		}
		s, err := readState(runtimeDir, e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}

func readState(runtimeDir, volumeUUID string) (state, error) {
	var s state
	data, err := os.ReadFile(stateFile(runDir(runtimeDir, volumeUUID)))
	if err != nil {
		return s, fmt.Errorf("read the state of volume %s: %w", volumeUUID, err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("read the state of volume %s: %w; if no agent serves it, remove %s", volumeUUID, err,
			stateFile(runDir(runtimeDir, volumeUUID)))
	}
	if s.VolumeUUID != volumeUUID {
		return s, fmt.Errorf("state in %s names volume %q: refused; if no agent serves it, remove the folder",
			runDir(runtimeDir, volumeUUID), s.VolumeUUID)
	}
	return s, nil
}

func self() owner {
	start, _ := processStart(os.Getpid())
	return owner{PID: os.Getpid(), Start: start, BootID: bootID(), Life: life}
}

// alive reports whether the owner still runs.
func (o owner) alive() bool {
	if o.PID <= 0 || o.BootID != bootID() || o.PID == os.Getpid() && o.Life != life {
		return false
	}
	start, err := processStart(o.PID)
	return err == nil && start == o.Start
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// processStart is field 22 of /proc/PID/stat (proc(5)). A zombie does not count as running: it serves nothing.
func processStart(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The command name may hold blanks and brackets, so fields are counted from the last bracket.
	i := strings.LastIndexByte(string(b), ')')
	f := strings.Fields(string(b[i+1:]))
	if i < 0 || len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	if f[0] == "Z" || f[0] == "X" {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(f[19], 10, 64)
}
