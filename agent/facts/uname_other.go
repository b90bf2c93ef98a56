//go:build !linux

package facts

import (
	"runtime"
	"strings"
)

// unameMachine is what the agent was built for: the systems without uname run 64-bit agents on 64-bit kernels only.
func unameMachine() (string, error) {
	if strings.HasSuffix(runtime.GOARCH, "64") {
		return runtime.GOARCH, nil
	}
	return "32-bit " + runtime.GOARCH, nil
}
