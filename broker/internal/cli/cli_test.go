package cli

import (
	"maps"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"keyward/broker/internal/rootkey/rootkeytest"
)

// The scripts in testdata are the promises of the command line: what is printed, what is refused, which exit code.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"keyward-broker": func() { os.Exit(Main(os.Args[1:], "v0-test")) },
	})
}

func TestCommands(t *testing.T) {
	t.Parallel()
	place := rootkeytest.NewTransit(t)
	all := maps.Clone(commands)
	// transit describe|rotate|seal: an OpenBao or Vault with a root key that $TRANSIT describes, its newer version, its end.
	all["transit"] = func(ts *testscript.TestScript, _ bool, args []string) {
		switch args[0] {
		case "describe":
			ts.Setenv("TRANSIT", place.Describe(t, "keyward"))
		case "rotate":
			place.Rotate("keyward", false)
		case "seal":
			place.Seal(true)
		default:
			ts.Fatalf("transit cannot %s", args[0])
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds:                all,
	})
}
