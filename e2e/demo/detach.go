package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keyward/e2e/lab"
)

// endMark tells the process in front that the steps are over and the keeper stays.
const endMark = "\x00"

// detach starts the keeper in a session of its own, shows its output and returns when the steps are over.
func detach() error {
	if pid := keeperPID(); pid != 0 {
		return fmt.Errorf("the demonstration is running already (process %d); `make demo-stop` ends it", pid)
	}
	if _, err := os.Stat(home); err == nil {
		return fmt.Errorf("%s is left over from a demonstration that was killed; `make demo-stop` removes it", home)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	keeper := exec.Command(self, "keep")
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	output, err := keeper.StdoutPipe()
	if err != nil {
		return err
	}
	keeper.Stderr = keeper.Stdout // nothing of the keeper's may hold this program's own outputs open
	if err := keeper.Start(); err != nil {
		return err
	}
	reader := bufio.NewReader(output)
	for {
		line, err := reader.ReadString('\n')
		if strings.HasSuffix(line, endMark) {
			fmt.Print(strings.TrimSuffix(line, endMark))
			return nil
		}
		fmt.Print(line)
		if err != nil {
			break
		}
		if at, err := reader.Peek(1); err == nil && string(at) == endMark {
			return nil
		}
	}
	if err := keeper.Wait(); err != nil {
		return errors.New("a step did not hold")
	}
	return nil
}

// keeperPID is the keeper that runs now, or 0.
func keeperPID() int {
	raw, err := os.ReadFile(filepath.Join(home, "keeper.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		return 0
	}
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(command), "keep") {
		return 0
	}
	return pid
}

// stop ends the keeper, which stops agent and broker in order; what a killed one left is taken apart by force.
func stop() error {
	if pid := keeperPID(); pid != 0 {
		fmt.Println("stopping the demonstration")
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop process %d: %w", pid, err)
		}
		for range 600 {
			if syscall.Kill(pid, 0) != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	if err := lab.TearDown(home); err != nil {
		return err
	}
	if err := os.RemoveAll(home); err != nil {
		return fmt.Errorf("remove %s: %w", home, err)
	}
	return nothingLeft(home)
}

// nothingLeft fails when a mount, loop device or process still belongs to the folder.
func nothingLeft(dir string) error {
	if left := lab.Traces(dir); len(left) > 0 {
		return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
	}
	return nil
}
