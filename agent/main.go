// Command keyward-agent keeps this machine's encrypted volumes: it asks the broker for their keys, mounts them, and
// gives the keys up when it must.
package main

// Preemption by signals would save the registers of a running cipher, round keys among them, where root can read them.
//
//go:debug asyncpreemptoff=1

import (
	"os"

	"keyward/agent/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
