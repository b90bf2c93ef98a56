package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	gobackend "github.com/pojntfx/go-nbd/pkg/backend"
	goserver "github.com/pojntfx/go-nbd/pkg/server"

	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
	"keyward/nbdcrypt/nbd"
)

// serve is the hidden command that runs one Go server in a process of its own, so that its processor time can be told
// from the client's: bench serve KIND SOCKET IMAGE. It ends when it is killed.
func serve(kind, socket, image string) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", socket, err)
	}
	if kind == "go-nbd" {
		return serveGoNBD(listener, image)
	}
	file, err := blockdev.OpenFile(image, blockdev.FileOptions{})
	if err != nil {
		return err
	}
	device := blockdev.Device(file)
	if kind == "keyward" {
		if device, err = encrypted(file); err != nil {
			return err
		}
	}
	nbd.SpareProcessors()
	server, err := nbd.NewServer(nbd.Options{Logger: slog.New(slog.DiscardHandler), Exports: []nbd.Export{{Device: device, MultiConn: true}}})
	if err != nil {
		return err
	}
	return server.Serve(listener)
}

// encrypted makes a fresh volume on the device and opens it.
func encrypted(device blockdev.Device) (blockdev.Device, error) {
	raw := make([]byte, 64)
	rand.Read(raw)
	key, err := keymem.FromBytes(raw)
	if err != nil {
		return nil, err
	}
	record, err := luks2.Format(device, luks2.Params{Device: "bench", Account: "bench", Broker: "bench", KeyBits: 256, Overwrite: true}, key)
	if err != nil {
		return nil, err
	}
	return nbdcrypt.Open(device, record, key, nbdcrypt.Options{})
}

func serveGoNBD(listener net.Listener, image string) error {
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			// go-nbd answers a request before it has looked at the next, whatever its options.
			goserver.Handle(conn, []*goserver.Export{{Name: "", Backend: gobackend.NewFileBackend(file)}}, &goserver.Options{
				SupportsMultiConn: true, MinimumBlockSize: 1, PreferredBlockSize: 4096, MaximumBlockSize: 32 << 20})
		}()
	}
}

// makeImage creates a file of size bytes whose blocks are all allocated, so that no server gains from holes.
func makeImage(ctx context.Context, path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", filepath.Base(path), err)
	}
	defer file.Close()
	block := make([]byte, 1<<20)
	rand.Read(block)
	for at := int64(0); at < size && ctx.Err() == nil; at += int64(len(block)) {
		if _, err := file.WriteAt(block, at); err != nil {
			return fmt.Errorf("fill %s: %w", filepath.Base(path), err)
		}
	}
	return file.Sync()
}
