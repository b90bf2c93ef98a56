package cli

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata are the promises of the command line: what is printed, what is refused, which exit code.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"keyward-broker": func() { os.Exit(Main(os.Args[1:], "v0-test")) },
	})
}

func TestCommands(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                commands,
	})
}
