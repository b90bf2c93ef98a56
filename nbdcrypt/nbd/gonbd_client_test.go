//go:build linux && amd64

package nbd

import (
	"testing"

	// Without cgo it builds on this platform only.
	gonbdclient "github.com/pojntfx/go-nbd/pkg/client"
)

// go-nbd's client expects one reply with all names in it, so it finds the first export.
func TestGoNBD_clientListsExports(t *testing.T) {
	t.Parallel()
	srv := newServer(t, Options{Exports: []Export{{Name: "default", Device: newTestDevice(4096)}}})
	c := connect(t, srv)
	names, err := gonbdclient.List(c.conn)
	if err != nil || len(names) != 1 || names[0] != "default" {
		t.Errorf("%q, %v", names, err)
	}
	c.conn.Close()
	c.wait()
}
