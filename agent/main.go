// Command keyward-agent keeps this machine's encrypted volumes: it asks the broker for their keys, mounts them, and
// gives the keys up when it must.
package main

import (
	"os"

	"keyward/agent/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
