package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"keyward/agent/internal/harden"
	"keyward/nbdcrypt/nbd"
)

// childVariable tells a process that it is the one that keeps a volume open: its standard input has the secrets, and its
// standard output takes one verdict.
const childVariable = "KEYWARD_KEEPS_VOLUME"

// maxSecrets is the most that is read of the secrets, in bytes.
const maxSecrets = 64 << 10

// verdict is the one line by which such a process says how it went.
type verdict struct {
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"`
	Code  int    `json:"code,omitempty"`
}

func (a *app) isChild() bool {
	for _, e := range a.environ {
		if e == childVariable+"=1" {
			return true
		}
	}
	return false
}

// inBackground runs this command again in a process of its own and returns when that has opened the volume, or has said
// why it cannot. Its log lies beside the session's folder.
func (a *app) inBackground(ctx context.Context, dir string, secrets []string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make the runtime folder: %w", err)
	}
	log, err := os.OpenFile(dir+".log", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make the log of the open volume: %w", err)
	}
	defer log.Close()
	text, err := json.Marshal(secrets)
	if err != nil {
		return err
	}
	defer clear(text)
	child := exec.CommandContext(context.WithoutCancel(ctx), "/proc/self/exe", os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), childVariable+"=1")
	child.Stderr = log
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := child.StdinPipe()
	if err != nil {
		return err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return fmt.Errorf("start the process that keeps the volume open: %w", err)
	}
	interrupted := context.AfterFunc(ctx, func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer interrupted()
	_, err = in.Write(text)
	if err = errors.Join(err, in.Close()); err != nil && !errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("hand the passphrase to the process that keeps the volume open: %w", err)
	}
	var v verdict
	if err := json.NewDecoder(io.LimitReader(out, maxSecrets)).Decode(&v); err != nil {
		return fmt.Errorf("the process that keeps the volume open ended without a word (%w); its log is %s", errors.Join(err, child.Wait()), log.Name())
	}
	if v.Error != "" {
		_ = child.Wait()
		_ = os.Remove(log.Name())
		return coded{v.Code, errors.New(v.Error)}
	}
	fmt.Fprintln(a.out, v.Text)
	return nil
}

// secrets are what people type, or what the parent was given where this process keeps a volume open for another.
func (a *app) secrets(ask func() ([]string, error)) ([]string, error) {
	if !a.isChild() {
		return ask()
	}
	harden.Reexec(context.Background())
	nbd.SpareProcessors()
	var secrets []string
	if err := json.NewDecoder(io.LimitReader(a.in, maxSecrets)).Decode(&secrets); err != nil {
		return nil, fmt.Errorf("take the passphrase from the command that started this process: %w", err)
	}
	return secrets, nil
}

// announce says that the volume is open: to the parent, after which nobody listens any more, or to a person.
func (a *app) announce(text string) error {
	if !a.isChild() {
		_, err := fmt.Fprintln(a.out, text)
		return err
	}
	return a.tellParent(verdict{Text: text})
}

// failed tells the parent of a failure that came before anything was announced.
func (a *app) failed(err error) {
	if err != nil && a.isChild() {
		_ = a.tellParent(verdict{Error: strings.TrimSpace(err.Error()), Code: exitCode(err)})
	}
}

func (a *app) tellParent(v verdict) error {
	out, ok := a.out.(*os.File)
	if !ok {
		return errors.New("the command that started this process cannot be told")
	}
	err := json.NewEncoder(out).Encode(v)
	return errors.Join(err, out.Close())
}
