package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
)

// stripe opens volumes of ours as one RAID 0, runs use and closes it.
func stripe(t *testing.T, members []*volume, chunk int64, use func(blockdev.Device)) {
	t.Helper()
	var parts []blockdev.Member
	for i, v := range members {
		dev, err := blockdev.OpenFile(v.image, blockdev.FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		vol, err := nbdcrypt.Open(dev, v.rec, v.newKey(), nbdcrypt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, blockdev.Member{Device: vol, Name: fmt.Sprintf("member %d", i)})
	}
	s, err := blockdev.NewStripe(parts, chunk)
	if err != nil {
		t.Fatal(err)
	}
	use(s)
	if err := errors.Join(s.Sync(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// A stripe of encrypted volumes is what stock Linux makes of the same members: cryptsetup on each, md without superblocks
// on top.
func TestStripe_isReadAndWrittenByCryptsetupAndMdadm(t *testing.T) {
	needGuest(t)
	for _, tc := range []struct {
		members int
		chunk   int64
	}{{2, 64 << 10}, {3, 512 << 10}} {
		t.Run(fmt.Sprintf("%d members, chunks of %d", tc.members, tc.chunk), func(t *testing.T) {
			var members []*volume
			for range tc.members {
				members = append(members, newVolume(t, 256, 4096))
			}
			var data, next []byte
			stripe(t, members, tc.chunk, func(dev blockdev.Device) {
				data, next = noise(t, int(dev.Size())), noise(t, int(dev.Size()))
				if _, err := dev.WriteAt(data, 0); err != nil {
					t.Fatal(err)
				}
			})
			linux(t, members, tc.chunk, func(path string) {
				got, err := os.ReadFile(path)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("md reads %d bytes (%v), other than the %d that we wrote", len(got), err, len(data))
				}
				writeAll(t, path, next)
			})
			stripe(t, members, tc.chunk, func(dev blockdev.Device) {
				if !bytes.Equal(readAll(t, dev), next) {
					t.Error("we read other bytes than md wrote")
				}
			})
		})
	}
}

// linux opens the members with cryptsetup and joins them with mdadm.
func linux(t *testing.T, members []*volume, chunk int64, use func(path string)) {
	t.Helper()
	build := []string{"--build", "/dev/md9", "--level=0", fmt.Sprintf("--raid-devices=%d", len(members)), fmt.Sprintf("--chunk=%d", chunk>>10)}
	var open func(rest []*volume)
	open = func(rest []*volume) {
		if len(rest) > 0 {
			rest[0].theirs(func(path string) {
				build = append(build, path)
				open(rest[1:])
			})
			return
		}
		tool(t, "mdadm", build...)
		defer tool(t, "mdadm", "--stop", "/dev/md9")
		use("/dev/md9")
	}
	open(members)
}
