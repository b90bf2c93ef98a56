package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/e2e/lab"
)

const securityName = "sam"

// stepBroker starts a broker and lets its Account Administrator create a Security Administrator.
func (s *show) stepBroker(ctx context.Context) error {
	bin, err := executable("keyward-broker")
	if err != nil {
		return err
	}
	s.broker, err = lab.StartBroker(ctx, lab.BrokerOptions{Bin: bin, Dir: filepath.Join(s.dir, "broker"),
		RootKey: filepath.Join(s.dir, "root-key", "root.key"), Account: "Demo", Admin: "ada", Approver: "grace"})
	if err != nil {
		return err
	}
	setup := s.broker.Setup
	if s.admin, err = s.broker.LogOn(ctx, setup.Admin.Name, setup.Admin.Password); err != nil {
		return err
	}
	if s.approver, err = s.broker.LogOn(ctx, setup.Approver.Name, setup.Approver.Password); err != nil {
		return err
	}
	random := make([]byte, 12)
	rand.Read(random)
	s.securityPassword = "Sec1!" + base64.RawURLEncoding.EncodeToString(random)
	err = s.admin.Do(ctx, http.MethodPost, "/api/v1/users", api.UserWrite{Name: securityName, Role: api.RoleSecurityAdmin,
		Password: s.securityPassword}, nil)
	if err != nil {
		return err
	}
	if s.security, err = s.broker.LogOn(ctx, securityName, s.securityPassword); err != nil {
		return err
	}
	say("console %s, agents at %s, account %s", s.broker.URL, s.broker.AgentURL, setup.AccountID)
	return nil
}

// stepEnrol makes the disk, enrols the agent and waits until its device shows up.
func (s *show) stepEnrol(ctx context.Context) error {
	if err := lab.MakeDisk(s.disk, 512<<20); err != nil {
		return err
	}
	bin, err := executable("keyward-agent")
	if err != nil {
		return err
	}
	token, err := s.admin.CreateToken(ctx, api.EnrolmentTokenWrite{Description: "demo", Uses: 1, ExpireSeconds: 600})
	if err != nil {
		return err
	}
	script := filepath.Join(s.dir, "teardown.sh")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho stopped >> "+s.teardown+"\n"), 0o700); err != nil {
		return err
	}
	s.agent, err = s.broker.Enrol(ctx, lab.AgentOptions{Bin: bin, Dir: filepath.Join(s.dir, "agent"), Images: []string{s.disk},
		Token: token.Token, Extra: "location: demo\nscripts:\n  teardown: " + script + "\n"})
	if err != nil {
		return err
	}
	if err := s.agent.Start(); err != nil {
		return err
	}
	err = lab.Eventually(ctx, 15*time.Second, func() error {
		list, err := s.admin.Devices(ctx, url.Values{"size": {"100"}})
		if err != nil {
			return err
		}
		names := []string{}
		for _, device := range list.Devices {
			names = append(names, device.Name)
			// This machine's own disks may be listed too; the demonstration touches only its image.
			if device.Size == 512<<20 {
				s.device = device
				return nil
			}
		}
		return fmt.Errorf("the inventory has no device of 512 MiB among %q", names)
	})
	if err != nil {
		return err
	}
	say("device %q, %s, contents: %s", s.device.Name, s.device.Status, s.device.Contents)
	return nil
}

// stepEncrypt configures the device and follows its status until it is encrypted.
func (s *show) stepEncrypt(ctx context.Context) error {
	seen := []api.DeviceStatus{s.device.Status}
	note := func(d api.Device) {
		if seen[len(seen)-1] != d.Status {
			seen = append(seen, d.Status)
		}
		s.device = d
	}
	device, err := s.admin.ConfigureDevice(ctx, s.device.ID, api.DeviceWrite{Name: "data", Platform: "linux", FileSystem: "ext4",
		MountPoint: s.mount, Access: api.AccessReadWrite, KeyBits: 256, ImageID: s.device.ImageID, Version: s.device.Version})
	if err != nil {
		return err
	}
	note(device)
	if device, err = s.admin.EncryptDevice(ctx, s.device.ID, api.EncryptWrite{Confirm: "data"}); err != nil {
		return err
	}
	note(device)
	detail := ""
	err = lab.Eventually(ctx, 60*time.Second, func() error {
		device, err := s.admin.Device(ctx, s.device.ID)
		if err != nil {
			return err
		}
		note(device)
		if device.StatusDetail != detail && device.StatusDetail != "" {
			detail = device.StatusDetail
			say("%s: %s", device.Status, detail)
		}
		if device.Status != api.DeviceEncrypted {
			return fmt.Errorf("the device is %s %s", device.Status, device.StatusDetail)
		}
		return nil
	})
	if err != nil {
		return err
	}
	want := []api.DeviceStatus{api.DeviceNotConfigured, api.DeviceConfigured, api.DeviceEncryptionPending, api.DeviceEncrypting,
		api.DeviceEncrypted}
	if !slices.Equal(seen, want) {
		return fmt.Errorf("the status went %v, want %v", seen, want)
	}
	say("%v", seen)
	return nil
}

// stepApprove waits for the pending request, approves it and times how long the mount takes.
func (s *show) stepApprove(ctx context.Context) error {
	if err := s.approve(ctx, "the demonstration knows this machine"); err != nil {
		return err
	}
	return s.await(ctx, api.DeviceInUse)
}

// approve decides the newest pending request and waits for the mount.
func (s *show) approve(ctx context.Context, reason string) error {
	detail, err := s.pending(ctx)
	if err != nil {
		return err
	}
	s.request = detail.RequestID
	say("request %d is %s: %s", detail.Number, detail.Status, detail.Reason)
	started := time.Now()
	if _, err := s.approver.Approve(ctx, s.request, api.Decision{Reason: reason, Version: detail.Version}); err != nil {
		return err
	}
	err = lab.Eventually(ctx, 30*time.Second, func() error {
		if !lab.Mounted(s.mount) {
			return errors.New("the volume is not mounted")
		}
		return nil
	})
	if err != nil {
		return err
	}
	took := time.Since(started)
	say("approved by %s; mounted %.0f ms later", s.broker.Setup.Approver.Name, took.Seconds()*1e3)
	s.mounted = append(s.mounted, took)
	if err := s.awaitRequest(ctx, api.KeyDelivered); err != nil {
		return err
	}
	status, err := s.agent.Status(ctx)
	if err != nil {
		return err
	}
	for _, v := range status.Volumes {
		say("export: %s on %s, key in %s", v.ExportKind, v.BlockDevice, v.KeyProtection)
	}
	return nil
}

// pending is the device's newest request, once it waits for a person.
func (s *show) pending(ctx context.Context) (detail api.KeyRequestDetail, err error) {
	err = lab.Eventually(ctx, 30*time.Second, func() error {
		row, err := s.newest(ctx, s.approver)
		if err != nil {
			return err
		}
		if row.Status != api.KeyPending || row.RequestID == s.request {
			return fmt.Errorf("request %d is %s", row.Number, row.Status)
		}
		detail, err = s.approver.KeyRequest(ctx, row.RequestID)
		return err
	})
	return detail, err
}

// newest is the device's key request with the highest number.
func (s *show) newest(ctx context.Context, as *client.People) (newest api.RunningInstance, err error) {
	list, err := as.RunningInstances(ctx, nil)
	if err != nil {
		return newest, err
	}
	for _, row := range list.Rows {
		if row.DeviceID == s.device.ID && row.Number > newest.Number {
			newest = row
		}
	}
	if newest.RequestID == "" {
		return newest, errors.New("there is no key request for the device yet")
	}
	return newest, nil
}

func (s *show) awaitRequest(ctx context.Context, want api.KeyStatus) error {
	return lab.Eventually(ctx, 20*time.Second, func() error {
		detail, err := s.approver.KeyRequest(ctx, s.request)
		if err == nil && detail.Status != want {
			err = fmt.Errorf("request %d is %s, want %s", detail.Number, detail.Status, want)
		}
		return err
	})
}

func (s *show) await(ctx context.Context, want api.DeviceStatus) error {
	return lab.Eventually(ctx, 20*time.Second, func() error {
		device, err := s.admin.Device(ctx, s.device.ID)
		if err == nil && device.Status != want {
			err = fmt.Errorf("the device is %s, want %s", device.Status, want)
		}
		return err
	})
}
