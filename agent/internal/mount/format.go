package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"keyward/agent/internal/discover"
)

// FormatOptions of Format.
type FormatOptions struct {
	Device string // block device of the opened volume
	Type   string // one of FileSystems
	Label  string // at most 12 bytes for xfs, 16 for ext; letters, digits and ._- only
	UUID   string // of the file system; empty lets the tool choose
	// Overwrite destroys a file system, partition table or other signature that the device holds.
	Overwrite bool
	// Progress receives 0 to 1 with what is being done, where the tool reports it. It is called from one goroutine.
	Progress func(fraction float64, step string)
}

// ErrHoldsData is returned by Format for a device on which something is recognised.
var ErrHoldsData = errors.New("device already holds data")

var labelPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// arguments of the mkfs tools. No discards: whether the volume passes them on is not for mkfs to try.
func (o FormatOptions) arguments() (tool string, args []string, err error) {
	if !slices.Contains(FileSystems(), o.Type) {
		return "", nil, fmt.Errorf("file system %q is not supported, use one of %v", o.Type, FileSystems())
	}
	limit := 16
	if o.Type == "xfs" {
		limit = 12
	}
	if o.Label != "" && (len(o.Label) > limit || !labelPattern.MatchString(o.Label)) {
		return "", nil, fmt.Errorf("label %q is not possible: at most %d letters, digits and . _ - for %s", o.Label, limit, o.Type)
	}
	if o.UUID != "" {
		if _, err := uuid.Parse(o.UUID); err != nil {
			return "", nil, fmt.Errorf("file system UUID %q: %w", o.UUID, err)
		}
	}
	if o.Type == "xfs" {
		args = []string{"-K", "-f"} // -f: this package has looked at what the device holds
		if o.UUID != "" {
			args = append(args, "-m", "uuid="+o.UUID)
		}
	} else {
		args = []string{"-F", "-E", "nodiscard"}
		if o.UUID != "" {
			args = append(args, "-U", o.UUID)
		}
	}
	if o.Label != "" {
		args = append(args, "-L", o.Label)
	}
	return "mkfs." + o.Type, append(args, o.Device), nil
}

// Format makes a file system. It refuses a device that is in use or on which something is recognised; noise, which is
// what a new encrypted volume shows, is not recognised as anything.
func Format(ctx context.Context, o FormatOptions) error {
	tool, args, err := o.arguments()
	if err != nil {
		return fmt.Errorf("make a file system on %s: %w", o.Device, err)
	}
	if err := o.check(); err != nil {
		return fmt.Errorf("make a file system on %s: %w", o.Device, err)
	}
	watch := newProgress(o.Progress)
	watch.report(0, "starting "+tool)
	if err := run(ctx, tool, args, watch); err != nil {
		return fmt.Errorf("make a file system on %s: %w", o.Device, err)
	}
	watch.report(1, "done")
	return nil
}

// check opens the device exclusively, so that a mounted one is refused whatever the tool would say.
func (o FormatOptions) check() error {
	fd, err := unix.Open(o.Device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open it exclusively: %w; unmount what is on it", err)
	}
	f := os.NewFile(uintptr(fd), o.Device)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return errors.New("it is not a block device")
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("find its size: %w", err)
	}
	contents, err := discover.Probe(f, size)
	if err != nil {
		return fmt.Errorf("look at what it holds: %w", err)
	}
	if len(contents.Found) > 0 && !o.Overwrite {
		return fmt.Errorf("%w: %s; say overwrite to destroy it", ErrHoldsData, contents)
	}
	return nil
}

// mke2fsStep is one of mke2fs's counters: "Writing inode tables:  3/16".
var mke2fsStep = regexp.MustCompile(`^([A-Z][A-Za-z ]+): +(\d+)/(\d+)`)

// progress turns the lines of mke2fs into a fraction. mke2fs rewrites a counter in place with backspaces, which the
// reader of its output takes for line ends. Steps weigh the same, for lack of better.
type progress struct {
	call func(float64, string)
	last float64
}

var mke2fsSteps = []string{"Allocating group tables", "Writing inode tables", "Creating journal", "Writing superblocks and filesystem accounting information"}

func newProgress(call func(float64, string)) *progress { return &progress{call: call} }

func (p *progress) report(f float64, step string) {
	if p.call != nil && f >= p.last {
		p.last = f
		p.call(f, step)
	}
}

func (p *progress) line(s string) {
	m := mke2fsStep.FindStringSubmatch(s)
	if m == nil {
		return
	}
	step := slices.Index(mke2fsSteps, m[1])
	done, err1 := strconv.ParseFloat(m[2], 64)
	all, err2 := strconv.ParseFloat(m[3], 64)
	if step < 0 || err1 != nil || err2 != nil || all <= 0 || done > all {
		return
	}
	p.report((float64(step)+done/all)/float64(len(mke2fsSteps)), m[1])
}
