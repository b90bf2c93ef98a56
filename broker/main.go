// Command keyward-broker keeps the keys of encrypted volumes and hands them to machines that a policy, or a person, has
// judged fit.
package main

import (
	"os"

	"keyward/broker/internal/cli"
)

// version is set by the build.
var version = "development"

func main() { os.Exit(cli.Main(os.Args[1:], version)) }
