// Package tpm keeps a machine's identity in its TPM 2.0: keys that cannot leave it, and quotes of what was started.
//
// The TPM is opened for each operation and left as it was found: nothing is stored in it. Keys are kept as blobs on the
// disk that only this TPM can load.
package tpm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// DefaultPath is the kernel's resource manager of the first TPM.
const DefaultPath = "/dev/tpmrm0"

// openWait is how long another program's use of the TPM is waited for; answerWait how long an answer may take (making an
// RSA key takes a slow TPM half a minute).
const (
	openWait   = 10 * time.Second
	answerWait = 90 * time.Second
)

// Device is a TPM. It is safe for concurrent use.
type Device struct {
	path string
	mu   sync.Mutex
}

// Open names the TPM by its device or Unix socket (swtpm) and makes sure that it answers.
func Open(path string) (*Device, error) {
	d := &Device{path: path}
	return d, d.do(func(t transport.TPM) error {
		if _, err := (tpm2.GetRandom{BytesRequested: 8}).Execute(t); err != nil {
			return fmt.Errorf("it does not answer: %w", err)
		}
		return nil
	})
}

// do runs f with the TPM open.
func (d *Device) do(f func(transport.TPM) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	rw, err := dial(d.path)
	if err != nil {
		return fmt.Errorf("open the TPM %s: %w", d.path, err)
	}
	defer rw.Close()
	if err := f(transport.FromReadWriter(rw)); err != nil {
		return fmt.Errorf("TPM %s: %w", d.path, err)
	}
	return nil
}

func dial(path string) (io.ReadWriteCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeSocket != 0 {
		c, err := net.DialTimeout("unix", path, openWait)
		if err != nil {
			return nil, err
		}
		return c, c.SetDeadline(time.Now().Add(answerWait))
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return nil, errors.New("it is neither a TPM device nor a socket; set tpm_device")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// loaded is a key in the TPM's memory.
type loaded struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPM2BPublic
}

func (l loaded) named() tpm2.NamedHandle { return tpm2.NamedHandle{Handle: l.handle, Name: l.name} }

func (l loaded) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: l.handle, Name: l.name, Auth: tpm2.PasswordAuth(nil)}
}

// flush frees the TPM's memory, of which there is little and which a socket's TPM keeps over connections.
func (l loaded) flush(t transport.TPM) { _, _ = tpm2.FlushContext{FlushHandle: l.handle}.Execute(t) }

// primary makes a key that follows from the TPM's seed, and is so the same each time.
func primary(t transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (loaded, error) {
	r, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(t)
	if err != nil {
		return loaded{}, err
	}
	return loaded{r.ObjectHandle, r.Name, r.OutPublic}, nil
}

// storage is the parent of our keys: the storage root key of the TCG's reference template, P-256.
func storage(t transport.TPM) (loaded, error) {
	k, err := primary(t, tpm2.TPMRHOwner, tpm2.ECCSRKTemplate)
	if err != nil {
		return k, fmt.Errorf("make the storage root key: %w", err)
	}
	return k, nil
}

// with runs f with one of our keys loaded.
func with(t transport.TPM, b Blob, f func(loaded) error) error {
	parent, err := storage(t)
	if err != nil {
		return err
	}
	r, err := tpm2.Load{ParentHandle: parent.auth(), InPrivate: tpm2.TPM2BPrivate{Buffer: b.Private},
		InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](b.Public)}.Execute(t)
	parent.flush(t) // a TPM holds no more than three keys at a time
	if err != nil {
		return fmt.Errorf("load this machine's key: %w: it was made in another TPM, or this one was cleared; enrol the machine again", err)
	}
	key := loaded{handle: r.ObjectHandle, name: r.Name}
	defer key.flush(t)
	return f(key)
}
