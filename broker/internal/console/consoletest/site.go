package consoletest

import (
	"fmt"
	"time"

	"keyward/broker/api"
	"keyward/rbac"
)

// fill makes the data of a small site. IDs are fixed, so that tests can name them.
func (b *Broker) fill(now time.Time) {
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	b.deepSecurity.Port = 4119
	b.account = api.Account{ID: "bf2ce005-f482-4d95-aa2a-6a3e94d4780c", Name: "Harbour Clinic", ServiceURL: "https://keys.example.org:8444",
		TimeZone: "Europe/Berlin", DateFormat: "02 Jan 2006 15:04:05 MST", CreatedAt: ago(90 * 24 * time.Hour)}
	for i, r := range rbac.Roles() {
		seen := ago(time.Duration(i*7+1) * time.Minute)
		b.users = append(b.users, api.User{ID: fmt.Sprintf("user-%d", i+1), Name: UserOf(r.Name), DisplayName: []string{"Ada Lund", "Sven Ek", "Dana Roy", "Otto Brandt", "Kim Sato"}[i],
			Email: UserOf(r.Name) + "@example.org", Role: api.Role(r.Name), LastLogOnAt: &seen, CreatedAt: ago(80 * 24 * time.Hour)})
	}
	locked := now.Add(11 * time.Minute)
	b.users = append(b.users, api.User{ID: "user-6", Name: "noor", DisplayName: "Noor Haddad", Role: api.RoleKeyApprover, LockedUntil: &locked, CreatedAt: ago(24 * time.Hour)})
	b.tokens = []api.EnrolmentTokenInfo{
		{ID: "token-1", Description: "Database servers, rack 4", UsesLeft: 12, ExpiresAt: now.Add(6 * 24 * time.Hour), CreatedBy: "ada", CreatedAt: ago(26 * time.Hour)},
		{ID: "token-2", Description: "Backup host", UsesLeft: 1, ExpiresAt: ago(3 * time.Hour), CreatedBy: "ada", CreatedAt: ago(27 * time.Hour)},
	}
	ends := now.Add(200 * 24 * time.Hour)
	b.images = []api.Image{
		{ID: "image-1", Identity: "ami-0a1b2c3d4e5f67890", Provider: "ec2", Name: "Debian 12 database", Description: "Hardened base for database servers", PolicyIDs: []string{"policy-2"}, Instances: 2, CertificateExpiresAt: &ends},
		{ID: "image-2", Identity: "native-5d1f0c2e9a7b4c83a1f6", Provider: "native", Name: "backup-01", PolicyIDs: []string{"policy-1"}, Instances: 1},
	}
	seen := ago(20 * time.Second)
	b.machines = []api.Instance{
		{ID: "instance-1", Identity: "i-0f3c2d1e4b5a69788", Provider: "ec2", HostName: "db-01.harbour.example.org", Location: "eu-central-1b", ImageID: "image-1", ImageName: "Debian 12 database",
			AgentVersion: "1.0.0", FirstSeenAt: ago(40 * 24 * time.Hour), LastSeenAt: &seen, SourceIP: "192.0.2.41", FromImage: true, CertificateExpiresAt: &ends,
			TPM:           &api.TPMInfo{EndorsementSHA256: "51d0a2f0e3a86b2c7fd94a1e6c58b3792be40c1d86f7a5930e2cb4d81f6e79a3", Maker: "Example Chips TPM CA", HoldsKey: true, RegisteredAt: ago(time.Hour)},
			CloudIdentity: "aws/123456789012/eu-central-1/i-0f3c2d1e4b5a69788",
			KeyConflict:   &api.KeyConflict{KeySHA256: "9f2c4b1de07a63885f10c2d47b9ea6310d5c8e7f4a2b91360cfe85d7421ab09e", HostName: "db-01", Address: "192.0.2.77", At: ago(time.Hour)}},
		{ID: "instance-2", Identity: "i-0aa17bd53c9e80f12", Provider: "ec2", HostName: "db-02.harbour.example.org", Location: "eu-central-1a", ImageID: "image-1", ImageName: "Debian 12 database",
			AgentVersion: "1.0.0", FirstSeenAt: ago(40 * 24 * time.Hour), LastSeenAt: &seen, SourceIP: "192.0.2.42", FromImage: true, CertificateExpiresAt: &ends},
		{ID: "instance-3", Identity: "4c4c4544-0042-3510-8052-b4c04f573933", Provider: "native", HostName: "backup-01", ImageID: "image-2", ImageName: "backup-01",
			AgentVersion: "1.0.0", FirstSeenAt: ago(12 * 24 * time.Hour), Missing: true, SourceIP: "192.0.2.60", CertificateExpiresAt: &ends},
	}
	b.fillDevices(ago)
	b.fillPolicies()
	b.fillRequests(ago)
	b.fillExports(ago)
	b.checks = api.CheckSettings{Schedule: api.ScheduleWeekly, Weekday: "sunday", Time: "03:00", RetrySeconds: 7200}
	b.notice("integrity-failed", "The integrity check failed: Network Services (TCP) is 22, 80, 5432, and must satisfy only these 22, 5432.")
	b.notice("check-overdue", "The machine has not answered the scheduled integrity check.")
	b.deviceNotice("provisioning-idle", "No machine began the encryption within 12 hours.")
	b.deletedFor = "Retention of two years is over, ticket 5120."
	for i := range 40 {
		event := [][3]string{{"user", "user.logged-on", "user:ada"}, {"key", "key-request.pending", "instance:instance-2"}, {"agent", "instance.enrolled", "instance:instance-1"},
			{"policy", "policy.changed", "user:ada"}, {"server", "broker.started", "broker"}}[i%5]
		b.records = append(b.records, api.AuditRecord{Sequence: int64(i + 1), At: ago(time.Duration(41-i) * 17 * time.Minute), Category: event[0], Event: event[1], Actor: event[2],
			Subject: "device-1", Detail: map[string]string{"address": "192.0.2.41", "device": "pgdata"}, Hash: []byte{byte(i), 0x5a, 0xc3}})
	}
}

func (b *Broker) fillDevices(ago func(time.Duration) time.Time) {
	key := &api.KeyInfo{Cipher: "AES", Bits: 256, Mode: "XTS", Hash: "SHA-256", Management: "Keyward", StoredOn: "Keyward broker",
		VolumeUUID: "2f6d9a58-3f55-4c0e-9d3a-6f1f5f6a7b21", CreatedAt: ago(30 * 24 * time.Hour)}
	device := func(n int, name, instance string, gib int64, status api.DeviceStatus, more func(*api.Device)) {
		d := api.Device{ID: fmt.Sprintf("device-%d", n), Identity: fmt.Sprintf("vol-0%d7c3f29b1e6d84a5", n), Provider: "ec2", Name: name, Information: "NVMe, /dev/nvme1n1", Contents: "empty",
			Size: gib << 30, Status: status, PolicyID: "policy-2", PolicyName: "Database servers", InstanceID: instance, InstanceName: map[string]string{
				"instance-1": "db-01.harbour.example.org", "instance-2": "db-02.harbour.example.org", "instance-3": "backup-01"}[instance], Version: 3, UpdatedAt: ago(time.Hour)}
		if more != nil {
			more(&d)
		}
		b.devices = append(b.devices, d)
	}
	encrypted := func(mount string) func(*api.Device) {
		return func(d *api.Device) {
			d.Platform, d.FileSystem, d.MountPoint, d.Access, d.KeyBits, d.ImageID, d.Key, d.Contents = "linux", "ext4", mount, api.AccessReadWrite, 256, "image-1", key, "LUKS2 volume"
		}
	}
	device(1, "pgdata", "instance-1", 512, api.DeviceInUse, encrypted("/srv/postgresql/16/main"))
	device(2, "pgdata-replica", "instance-2", 512, api.DeviceEncrypted, func(d *api.Device) {
		encrypted("/mnt/a-mount-point-of-seventy-characters/that-must-wrap-and-is-never-cut/x")(d)
		d.Rotation = &api.KeyRotation{JobID: "job-1", Status: "queued", Generation: 3, AskedBy: "ada", AskedAt: ago(26 * time.Hour), Reason: "The key was exported to a contractor who has left",
			Waits: "This agent cannot give a volume's data another key yet; a newer one may. The volume goes on with the key that it has."}
	})
	device(3, "archive", "instance-2", 2048, api.DeviceConfigured, func(d *api.Device) {
		d.Platform, d.FileSystem, d.MountPoint, d.Access, d.KeyBits, d.Contents = "linux", "xfs", "/srv/archive", api.AccessReadWrite, 256, "ext4 file system \"old\""
	})
	device(4, "scratch", "instance-1", 100, api.DeviceNotConfigured, nil)
	device(5, "scratch-b", "instance-1", 120, api.DeviceNotConfigured, nil)
	device(6, "journal", "instance-2", 64, api.DeviceEncrypting, func(d *api.Device) { d.StatusDetail = "file system, 40 %" })
	device(7, "spool", "instance-1", 64, api.DeviceEncryptionError, func(d *api.Device) {
		d.StatusDetail, d.Platform, d.FileSystem, d.MountPoint = "mkfs.ext4 failed: device is busy", "linux", "ext4", "/srv/spool"
	})
	device(8, "old-backup", "instance-3", 4096, api.DeviceUndetected, func(d *api.Device) {
		d.Provider, d.PolicyID, d.PolicyName = "native", "policy-1", "Default Policy"
	})
	device(9, "stripe", "instance-1", 200, api.DeviceConfigured, func(d *api.Device) {
		d.Identity, d.Platform, d.FileSystem, d.MountPoint, d.KeyBits, d.MemberIDs = "stripe", "linux", "xfs", "/srv/stripe", 256, []string{"device-10", "device-11"}
	})
	device(10, "stripe-a", "instance-1", 100, api.DeviceNotConfigured, func(d *api.Device) { d.RAIDSetID = "device-9" })
	device(11, "stripe-b", "instance-1", 100, api.DeviceNotConfigured, func(d *api.Device) { d.RAIDSetID = "device-9" })
}

func (b *Broker) fillPolicies() {
	b.policies = []api.Policy{
		{ID: "policy-1", Name: "Default Policy", Description: "Receives every new image and device. A person decides on each key request.", Default: true, Rules: []api.Rule{},
			OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: 300, HeartbeatSeconds: 30, RevokeMode: api.RevokeUnmount,
			ImageIDs: []string{"image-2"}, DeviceIDs: []string{"device-8"}, Version: 1},
		{ID: "policy-2", Name: "Database servers", Description: "Production databases in Frankfurt", Rules: []api.Rule{
			{Fact: api.FactTCPPorts, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpOnly, Value: "22, 5432"}}},
			{Fact: api.FactSourceIPv4, Match: api.MatchAny, Conditions: []api.Condition{{Operator: api.OpIn, Value: "192.0.2.0/24"}, {Operator: api.OpEqual, Value: "198.51.100.7"}}},
			{Fact: api.FactKernelVersion, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpGreaterEqual, Value: "6.1"}}},
		}, OnMatch: api.ActionManual, OnFailure: api.ActionDeny, ApproveAfterSeconds: 900, LeaseSeconds: 300, HeartbeatSeconds: 30, RevokeMode: api.RevokeSuspend,
			ImageIDs: []string{"image-1"}, DeviceIDs: []string{"device-1", "device-2", "device-3", "device-4", "device-5", "device-6", "device-7", "device-9"}, Version: 4},
		{ID: "policy-3", Name: "Laboratory", Rules: []api.Rule{}, OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: 3600, HeartbeatSeconds: 60,
			RevokeMode: api.RevokeUnmount, Version: 2},
	}
}
