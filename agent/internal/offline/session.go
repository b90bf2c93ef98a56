package offline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"keyward/agent/internal/control"
)

// folder is where open volumes are found, below the runtime folder.
const folder = "offline"

const stateFile = "open.json"

// Session describes an open volume to other processes, in a file beside its socket.
type Session struct {
	ID          string    `json:"id"`
	Devices     []string  `json:"devices"`
	Name        string    `json:"name"`
	BlockDevice string    `json:"block_device"`
	Kind        string    `json:"export_kind"`
	MountPoint  string    `json:"mount_point,omitempty"`
	Access      string    `json:"access"`
	Means       string    `json:"means"`
	PID         int       `json:"pid"`
	Since       time.Time `json:"since"`
	// Dir is the session's folder.
	Dir string `json:"-"`
}

// SessionDir is the folder of a volume below the agent's runtime folder. It has only the beginning of the ID, because the
// path of a socket in it may not be longer than 107 bytes.
func SessionDir(runtimeDir, id string) string {
	return filepath.Join(runtimeDir, folder, id[:min(13, len(id))])
}

func (o Options) socket() string    { return filepath.Join(o.Dir, "control.sock") }
func (x *Open) attachments() string { return filepath.Join(x.o.Dir, "volume") }
func (s Session) socket() string    { return filepath.Join(s.Dir, "control.sock") }
func (s Session) answersTo(n string) bool {
	return n == s.ID || n == s.Name || n == s.MountPoint || n == s.BlockDevice || slices.Contains(s.Devices, n)
}

// Serve opens a volume and keeps it open until it is closed by Close, or ctx ends. means says in words how the keys were
// come by. opened is called with the session once the volume can be used; when it refuses, the volume is closed again.
// closed is called when it has been closed.
func Serve(ctx context.Context, o Options, means string, grace time.Duration, opened func(Session) error, closed func()) error {
	door, err := control.Listen(o.socket(), o.Logger)
	if err != nil {
		Wipe(o.Keys)
		if errors.Is(err, control.ErrRunning) {
			return fmt.Errorf("volume %s is open already; close it with: keyward-agent close-exported", o.Keys[0].Name)
		}
		return err
	}
	defer forget(o.Dir)
	defer door.Close()
	s := Session{ID: o.ID(), Name: o.Keys[0].Name, Means: means, PID: os.Getpid(), Access: "read-only", Dir: o.Dir}
	if o.Write {
		s.Access = "read-write"
	}
	for _, k := range o.Keys {
		s.Devices = append(s.Devices, k.DeviceID)
	}
	x, err := OpenVolume(ctx, o)
	if err != nil {
		return err
	}
	s.BlockDevice, s.Kind, s.MountPoint, s.Since = x.BlockDevice(), x.Kind(), x.MountPoint(), time.Now().UTC()
	err = s.write()
	if err == nil {
		err = opened(s)
	}
	if err != nil {
		return errors.Join(err, x.Abort(context.WithoutCancel(ctx)))
	}
	defer closed()
	h := &handler{x: x, grace: grace, done: make(chan struct{})}
	serving := make(chan struct{})
	go func() { defer close(serving); door.Serve(ctx, h) }()
	defer func() { door.Close(); <-serving }() // the last answer goes out first
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
		return h.abort(context.WithoutCancel(ctx))
	}
}

func (s Session) write() error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(s.Dir, stateFile), data, 0o600); err != nil {
		return fmt.Errorf("note that the volume is open: %w", err)
	}
	return nil
}

// handler answers the command line.
type handler struct {
	x     *Open
	grace time.Duration

	mu     sync.Mutex
	closed bool
	done   chan struct{}
}

// Control implements control.Handler.
func (h *handler) Control(ctx context.Context, r control.Request) control.Answer {
	if r.Op != control.OpStop {
		return control.Answer{Error: fmt.Sprintf("%q is not understood by an open volume; it takes %q", r.Op, control.OpStop)}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return control.Answer{Text: "closed"}
	}
	if err := h.x.Close(ctx, h.grace); err != nil {
		return control.Answer{Error: err.Error()}
	}
	h.closed = true
	close(h.done)
	return control.Answer{Text: "closed"}
}

func (h *handler) abort(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	return h.x.Abort(ctx)
}

// Sessions lists the volumes that are open below a runtime folder, oldest first. A folder whose process was killed is
// listed too.
func Sessions(runtimeDir string) ([]Session, error) {
	dirs, err := filepath.Glob(filepath.Join(runtimeDir, folder, "*", stateFile))
	if err != nil {
		return nil, err
	}
	var out []Session
	for _, file := range dirs {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // closed meanwhile
		}
		s := Session{}
		if err == nil {
			err = json.Unmarshal(data, &s)
		}
		if err != nil {
			return nil, fmt.Errorf("read which volumes are open: %w", err)
		}
		s.Dir = filepath.Dir(file)
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Session) int { return a.Since.Compare(b.Since) })
	return out, nil
}

// Close closes the open volume that name means: an ID, a device, a mount point, or its block device.
func Close(ctx context.Context, runtimeDir, name string, log *slog.Logger) (Session, error) {
	open, err := Sessions(runtimeDir)
	if err != nil {
		return Session{}, err
	}
	i := slices.IndexFunc(open, func(s Session) bool { return s.answersTo(name) })
	if i < 0 {
		return Session{}, fmt.Errorf("no volume %q was opened without a broker; see: keyward-agent close-exported", name)
	}
	s := open[i]
	_, err = control.Call(ctx, s.socket(), control.Request{Op: control.OpStop})
	if errors.Is(err, control.ErrNotRunning) {
		return s, s.sweep(ctx, log)
	}
	return s, err
}
