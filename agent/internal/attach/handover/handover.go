// Package handover passes what must outlive a program from one life of a process to the next: open files, a description,
// and keys. The process executes a new program and keeps its PID, its parent and its open files, so that whoever
// supervises it notices nothing. Keys cross in memory that only the process itself can reach, and are wiped there.
package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/keymem"
)

// Parcel is what the next life gets.
type Parcel struct {
	// Note is a description in the words of the caller, JSON. It holds no secret.
	Note json.RawMessage
	// Files are open files. They have numbers of their own in the next life; their order is kept.
	Files []*os.File
	// Keys are at most 64 secrets of at most 256 bytes; a longer one counts as as many as it would fill.
	Keys []*keymem.Key
}

// variable tells the next life where its parcel is: two file descriptors.
const variable = "KEYWARD_HANDOVER"

const (
	maxNote  = 4 << 20
	maxFiles = 4096
	maxKeys  = 64
)

// slip is the content of the first file: what the second and the others are.
type slip struct {
	PID   int             `json:"pid"`
	Note  json.RawMessage `json:"note"`
	Files []int           `json:"files"`
	Keys  []int           `json:"keys"` // their lengths
}

// Exec replaces the program of this process by path, as execve(2) does, with p for it to Receive. It returns only when
// that failed; then nothing was handed over, the keys are wiped from the parcel's memory, and p is as it was.
//
// Nothing of this program runs any further: what must end in order (listeners, mounts that are not handed over) has ended
// before.
func Exec(path string, args, env []string, p Parcel) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("hand over to %s: %w", path, err)
	}
	vault, wipe, err := p.vault()
	if err != nil {
		return fmt.Errorf("hand over to %s: %w", path, err)
	}
	defer wipe()
	note, err := p.writeSlip()
	if err != nil {
		return fmt.Errorf("hand over to %s: %w", path, err)
	}
	defer unix.Close(note)

	fds := []int{note, vault}
	for _, f := range p.Files {
		fds = append(fds, int(f.Fd()))
	}
	// No child may be forked while the descriptors can be inherited.
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	for _, fd := range fds {
		if err = inheritable(fd, true); err != nil {
			break
		}
	}
	if err == nil {
		err = unix.Exec(path, args, append(without(env, variable), fmt.Sprintf("%s=%d,%d", variable, note, vault)))
	}
	for _, fd := range fds {
		_ = inheritable(fd, false)
	}
	return fmt.Errorf("hand over to %s: %w", path, err)
}

func (p Parcel) check() error {
	if len(p.Note) > maxNote || len(p.Files) > maxFiles || len(p.Keys) > maxKeys {
		return fmt.Errorf("a note of %d bytes, %d files and %d keys are too much", len(p.Note), len(p.Files), len(p.Keys))
	}
	taken := 0
	for _, k := range p.Keys {
		if k.Len() == 0 {
			return errors.New("a key is empty or wiped")
		}
		taken += slots(k.Len())
	}
	if taken > maxKeys {
		return fmt.Errorf("keys that take %d places are too much; lock a RAID set first", taken)
	}
	return nil
}

// writeSlip makes the file that describes the parcel.
func (p Parcel) writeSlip() (int, error) {
	s := slip{PID: os.Getpid(), Note: p.Note, Files: []int{}, Keys: []int{}}
	for _, f := range p.Files {
		s.Files = append(s.Files, int(f.Fd()))
	}
	for _, k := range p.Keys {
		s.Keys = append(s.Keys, k.Len())
	}
	text, err := json.Marshal(s)
	if err != nil {
		return -1, err
	}
	fd, err := unix.MemfdCreate("keyward-handover", unix.MFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make a file in memory: %w", err)
	}
	if _, err := unix.Pwrite(fd, text, 0); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("write a file in memory: %w", err)
	}
	return fd, nil
}

// Receive returns what the former life has handed over, nil where there was none or nothing was. It is called once, early,
// before anything forks. The caller owns the files and keys.
func Receive() (*Parcel, error) {
	text, ok := os.LookupEnv(variable)
	if !ok {
		return nil, nil
	}
	_ = os.Unsetenv(variable) // children are not the next life
	p, err := receive(text)
	if err != nil {
		return nil, fmt.Errorf("take over from the former program: %w", err)
	}
	return p, nil
}

func receive(text string) (*Parcel, error) {
	a, b, _ := strings.Cut(text, ",")
	note, errNote := strconv.Atoi(a)
	vault, errVault := strconv.Atoi(b)
	if err := errors.Join(errNote, errVault); err != nil || note < 3 || vault < 3 {
		return nil, fmt.Errorf("%s does not name two files", variable)
	}
	s, err := readSlip(note)
	if err != nil {
		_, vaultErr := emptyVault(vault, nil) // whatever it holds goes
		return nil, errors.Join(err, vaultErr)
	}
	p := &Parcel{Note: s.Note}
	// Whatever fails from here on, no file may stay open unseen and no key stay in the vault.
	for _, fd := range s.Files {
		if e := inheritable(fd, false); e != nil {
			err = errors.Join(err, fmt.Errorf("file %d: %w", fd, e))
			continue
		}
		p.Files = append(p.Files, os.NewFile(uintptr(fd), "handed over"))
	}
	var keyErr error
	p.Keys, keyErr = emptyVault(vault, s.Keys)
	if err = errors.Join(err, keyErr); err != nil {
		p.Discard()
		return nil, err
	}
	return p, nil
}

func readSlip(fd int) (slip, error) {
	f := os.NewFile(uintptr(fd), "handover slip")
	defer f.Close()
	var s slip
	info, err := f.Stat()
	if err != nil {
		return s, fmt.Errorf("look at what was handed over: %w", err)
	}
	if info.Size() > maxNote+maxFiles*16 {
		return s, fmt.Errorf("a description of %d bytes is too much", info.Size())
	}
	text := make([]byte, info.Size())
	if _, err := f.ReadAt(text, 0); err != nil {
		return s, fmt.Errorf("read what was handed over: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read what was handed over: %w", err)
	}
	if s.PID != os.Getpid() || len(s.Files) > maxFiles || len(s.Keys) > maxKeys {
		return s, errors.New("it is not for this process")
	}
	for _, fd := range s.Files {
		if fd < 3 {
			return s, fmt.Errorf("file %d cannot have been handed over", fd)
		}
	}
	return s, nil
}

// Discard closes the files and wipes the keys of a parcel that nobody takes. It does so once, and nothing for nil.
func (p *Parcel) Discard() {
	if p == nil {
		return
	}
	for _, f := range p.Files {
		f.Close()
	}
	for _, k := range p.Keys {
		k.Wipe()
	}
	p.Files, p.Keys = nil, nil
}

func inheritable(fd int, yes bool) error {
	flag := unix.FD_CLOEXEC
	if yes {
		flag = 0
	}
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
	return err
}

func without(env []string, name string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, name+"=") {
			out = append(out, e)
		}
	}
	return out
}
