package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/e2e/lab"
)

// mountKeyward is a volume as a user gets it: a real broker and a real agent, a disk encrypted and unlocked by them. The
// agent chooses the export, kernel NBD where there is one and else FUSE and loop.
func mountKeyward(ctx context.Context, m *mounted, dir string) error {
	m.encrypted = true
	// Keyward does not mount below /dev.
	parent, err := os.MkdirTemp("/var/tmp", "keyward-bench-")
	if err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { return os.RemoveAll(parent) })
	m.point = filepath.Join(parent, "volume")
	disk := filepath.Join(dir, "disk.img")
	// A disk of zeroes is one that Keyward takes for empty.
	if err := allocate(disk, mountSize); err != nil {
		return err
	}
	for _, program := range []string{"broker", "agent"} {
		if _, err := run(ctx, "go", "build", "-o", filepath.Join(dir, "keyward-"+program), "./"+program); err != nil {
			return fmt.Errorf("%w (start the benchmark from the top of the repository)", err)
		}
	}
	m.undo = append(m.undo, func() error { return lab.TearDown(dir) })
	broker, err := lab.StartBroker(ctx, lab.BrokerOptions{Bin: filepath.Join(dir, "keyward-broker"), Dir: filepath.Join(dir, "broker"),
		RootKey: filepath.Join(dir, "root-key", "root.key"), Account: "bench", Admin: "ada", Approver: "grace"})
	if err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { return broker.Stop(15 * time.Second) })
	admin, err := broker.LogOn(ctx, broker.Setup.Admin.Name, broker.Setup.Admin.Password)
	if err != nil {
		return err
	}
	approver, err := broker.LogOn(ctx, broker.Setup.Approver.Name, broker.Setup.Approver.Password)
	if err != nil {
		return err
	}
	token, err := admin.CreateToken(ctx, api.EnrolmentTokenWrite{Description: "bench", Uses: 1, ExpireSeconds: 600})
	if err != nil {
		return err
	}
	agent, err := broker.Enrol(ctx, lab.AgentOptions{Bin: filepath.Join(dir, "keyward-agent"), Dir: filepath.Join(dir, "agent"),
		Images: []string{disk}, Token: token.Token})
	if err != nil {
		return err
	}
	if err := agent.Start(); err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { return agent.Stop(30 * time.Second) })
	device, err := encryptDisk(ctx, admin, m.point)
	if err == nil {
		err = approveMount(ctx, approver, device, m.point)
	}
	if err != nil {
		return fmt.Errorf("%w; the agent's log ends:\n%s", err, agent.LogTail(20))
	}
	return nil
}

// encryptDisk has the one disk of its size encrypted, to be mounted at point.
func encryptDisk(ctx context.Context, admin *client.People, point string) (device api.Device, err error) {
	err = lab.Eventually(ctx, 30*time.Second, func() error {
		list, err := admin.Devices(ctx, url.Values{"size": {"100"}})
		if err != nil {
			return err
		}
		for _, d := range list.Devices {
			if d.Size == mountSize {
				device = d
				return nil
			}
		}
		return errors.New("the agent has not reported its disk")
	})
	if err != nil {
		return device, err
	}
	device, err = admin.ConfigureDevice(ctx, device.ID, api.DeviceWrite{Name: "bench", Platform: "linux", FileSystem: "ext4",
		MountPoint: point, Access: api.AccessReadWrite, KeyBits: 256, ImageID: device.ImageID, Version: device.Version})
	if err != nil {
		return device, err
	}
	return admin.EncryptDevice(ctx, device.ID, api.EncryptWrite{Confirm: "bench"})
}

// approveMount approves the device's first key request and waits for the mount.
func approveMount(ctx context.Context, approver *client.People, device api.Device, point string) error {
	return lab.Eventually(ctx, 120*time.Second, func() error {
		if lab.Mounted(point) {
			return nil
		}
		list, err := approver.RunningInstances(ctx, nil)
		if err != nil {
			return err
		}
		for _, row := range list.Rows {
			if row.DeviceID != device.ID || row.Status != api.KeyPending {
				continue
			}
			detail, err := approver.KeyRequest(ctx, row.RequestID)
			if err != nil {
				return err
			}
			if _, err := approver.Approve(ctx, row.RequestID, api.Decision{Reason: "benchmark", Version: detail.Version}); err != nil {
				return err
			}
		}
		return errors.New("the volume is not mounted")
	})
}
