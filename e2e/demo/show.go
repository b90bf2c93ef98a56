package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/e2e/lab"
)

// show is the demonstration: what it has started and what later steps need of earlier ones.
type show struct {
	dir, disk, mount string

	broker *lab.Broker
	agent  *lab.Agent
	// The people: Account Administrator, Key Approver, Security Administrator.
	admin, approver, security *client.People
	securityPassword          string

	device   api.Device
	request  string // the newest key request
	key      []byte // the volume key, as exported
	keyFile  string
	files    lab.Tree
	teardown string // file that the teardown script writes
	// mounted are the times from each approval to the mount.
	mounted []time.Duration
}

func newShow(dir string) *show {
	return &show{dir: dir, disk: filepath.Join(dir, "disk.img"), mount: filepath.Join(dir, "volume"),
		teardown: filepath.Join(dir, "teardown-ran")}
}

// steps in order; the numbers are those of the README's account of the demonstration.
func (s *show) steps() []struct {
	title string
	run   func(context.Context) error
} {
	return []struct {
		title string
		run   func(context.Context) error
	}{
		{"a broker of its own: SQLite, root key apart from the database, own CA", s.stepBroker},
		{"a raw disk of 512 MiB; the agent enrols and shows its devices", s.stepEnrol},
		{"the device is configured and encrypted", s.stepEncrypt},
		{"the agent asks for the key; a person approves; the volume is mounted", s.stepApprove},
		{"real files: Go's own source tree", s.stepFiles},
		{"at rest: nothing readable, and stock cryptsetup agrees with the volume", s.stepAtRest},
		{"revoked: unmounted, key gone; approved again: every byte is there", s.stepRevoke},
		{"agent, then broker, killed by SIGKILL under load: both come back, every synced file is intact", s.stepKill},
		{"the audit log, verified offline; one changed byte is found", s.stepAudit},
		{"what it costs: time to mount and memory", s.stepCost},
	}
}

func (s *show) run(ctx context.Context) error {
	for i, step := range s.steps() {
		fmt.Printf("\n%d. %s\n", i+1, step.title)
		started := time.Now()
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, step.title, err)
		}
		fmt.Printf("   held (%.1f s)\n", time.Since(started).Seconds())
	}
	return nil
}

func say(format string, values ...any) { fmt.Printf("   "+format+"\n", values...) }

// close stops the agent, which unmounts and wipes, then the broker.
func (s *show) close() error {
	var errs []error
	if s.agent != nil {
		errs = append(errs, s.agent.Stop(30*time.Second))
	}
	if s.broker != nil {
		errs = append(errs, s.broker.Stop(15*time.Second))
	}
	if err := errors.Join(errs...); err != nil {
		return errors.Join(err, lab.TearDown(s.dir))
	}
	return nil
}

// logs prints the ends of both logs, for a step that did not hold.
func (s *show) logs(w io.Writer) {
	if s.broker != nil {
		fmt.Fprintf(w, "--- broker's log\n%s\n", s.broker.LogTail(25))
	}
	if s.agent != nil {
		fmt.Fprintf(w, "--- agent's log\n%s\n", s.agent.LogTail(40))
	}
}

func (s *show) printAccess() {
	setup := s.broker.Setup
	fmt.Printf("\nIt stays running. Console: %s (its certificate is signed by %s)\n", s.broker.URL, s.broker.CAFile)
	fmt.Printf("  account %s\n", setup.AccountName)
	fmt.Printf("  %-24s %s / %s\n", "Account Administrator", setup.Admin.Name, setup.Admin.Password)
	fmt.Printf("  %-24s %s / %s\n", "Key Approver", setup.Approver.Name, setup.Approver.Password)
	fmt.Printf("  %-24s %s / %s\n", "Security Administrator", securityName, s.securityPassword)
	fmt.Printf("The volume is mounted at %s; bin/keyward-agent status --config %s shows it.\n", s.mount,
		filepath.Join(s.dir, "agent", "agent.yaml"))
	fmt.Println("make demo-stop ends it and removes every trace.")
}

// executable is one of the two programs that `make build` has put beside this one.
func executable(name string) (string, error) {
	path, err := filepath.Abs(filepath.Join("bin", name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w (run `make build`, and start the demonstration from the top of the repository)", err)
	}
	return path, nil
}
