package httpapi_test

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"net/url"
	"slices"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

func (o *org) principal() tenant.Principal {
	return tenant.Principal{AccountID: o.id, UserName: "test", Role: api.RoleAccountAdmin, Address: "127.0.0.1"}
}

// evidence is what a machine says; ports are its listening TCP ports.
func (b *box) evidence(nonce string, ports ...string) api.Evidence {
	fact := func(n api.FactName, v ...string) api.Fact {
		return api.Fact{Name: n, Values: v, Source: "test", Grade: api.GradeSelfReported, At: b.now()}
	}
	return api.Evidence{Nonce: nonce, CollectedAt: b.now(), Facts: []api.Fact{fact(api.FactHostName, b.host), fact(api.FactGuestOS, "linux"),
		fact(api.FactTCPPorts, ports...)}}
}

// configured configures a device for ext4.
func (o *org) configured(id, mount string) api.Device {
	o.t.Helper()
	d := must[api.Device](o.t)(o.admin.Device(o.t.Context(), id))
	return must[api.Device](o.t)(o.admin.ConfigureDevice(o.t.Context(), id, api.DeviceWrite{Name: d.Name, Platform: "linux", FileSystem: "ext4",
		MountPoint: mount, Access: api.AccessReadWrite, KeyBits: 256, Version: d.Version}))
}

// record is the volume record that a machine would report for a device and key.
func (b *box) record(d api.AssignedDevice, key []byte) *api.VolumeRecord {
	b.t.Helper()
	v := &api.VolumeRecord{UUID: uuid.NewString(), Cipher: "aes-xts-plain64", KeyBits: d.KeyBits, SectorSize: 4096, DataOffset: 16 << 20,
		DataSize: 496 << 20, DigestSalt: make([]byte, 32), DigestIterations: 1000, Epoch: 1, HeaderHash: make([]byte, 32),
		Broker: b.agentsAt, Account: b.org.id, Device: d.ID}
	rand.Read(v.DigestSalt)
	var err error
	if v.Digest, err = pbkdf2.Key(sha256.New, string(key), v.DigestSalt, v.DigestIterations, 32); err != nil {
		b.t.Fatal(err)
	}
	return v
}

// command waits for the machine's next command of a kind.
func (b *box) command(kind api.CommandKind) api.Command {
	b.t.Helper()
	list := must[api.CommandList](b.t)(b.Commands(b.t.Context(), 0))
	i := slices.IndexFunc(list.Commands, func(c api.Command) bool { return c.Kind == kind })
	if i < 0 {
		b.t.Fatalf("no command %q in %+v", kind, list.Commands)
	}
	return list.Commands[i]
}

// take takes an encrypt job and returns the opened device key.
func (b *box) take(c api.Command) []byte {
	b.t.Helper()
	private := must[*client.DeliveryKey](b.t)(client.NewDeliveryKey())
	nonce := must[api.NonceResponse](b.t)(b.Nonce(b.t.Context()))
	d := must[api.KeyDelivery](b.t)(b.JobKey(b.t.Context(), c.JobID, api.JobKeyRequest{PublicKey: private.PublicKey(), Nonce: nonce.Nonce}))
	return must[[]byte](b.t)(private.Open(d, api.DeliveryBinding{Purpose: "encrypt-job", AccountID: b.org.id, RequestID: c.JobID,
		DeviceID: c.DeviceID, InstanceID: b.id, Nonce: nonce.Nonce, LeaseSeconds: d.LeaseSeconds}))
}

// encrypted publishes one disk, configures it and encrypts it.
func (b *box) encrypted(name string) (api.Device, []byte) {
	b.t.Helper()
	ctx := b.t.Context()
	id := b.publish(disk(name))[name].ID
	b.configured(id, "/mnt/"+name)
	if _, err := b.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: name}); err != nil {
		b.t.Fatalf("encrypt: %v", err)
	}
	c := b.command(api.CommandEncrypt)
	key := b.take(c)
	if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: b.record(*c.Device, key)}); err != nil {
		b.t.Fatalf("done: %v", err)
	}
	return must[api.Device](b.t)(b.admin.Device(ctx, id)), key
}

// asked is a key request of a machine with the key that its delivery is sealed to.
type asked struct {
	*box
	api.KeyRequestStatus
	private *client.DeliveryKey
	nonce   string
}

// prepare makes a key request's body.
func (b *box) prepare(deviceID string, ports ...string) (api.KeyRequest, *client.DeliveryKey) {
	b.t.Helper()
	private := must[*client.DeliveryKey](b.t)(client.NewDeliveryKey())
	nonce := must[api.NonceResponse](b.t)(b.Nonce(b.t.Context()))
	return api.KeyRequest{DeviceID: deviceID, Nonce: nonce.Nonce, Evidence: b.evidence(nonce.Nonce, ports...), PublicKey: private.PublicKey(), Time: b.now()}, private
}

func (b *box) ask(deviceID string, ports ...string) *asked {
	b.t.Helper()
	in, private := b.prepare(deviceID, ports...)
	return &asked{b, must[api.KeyRequestStatus](b.t)(b.Request(b.t.Context(), in)), private, in.Nonce}
}

func (a *asked) approve() *asked {
	a.t.Helper()
	if _, err := a.approver.Approve(a.t.Context(), a.ID, api.Decision{Reason: "known machine"}); err != nil {
		a.t.Fatalf("approve: %v", err)
	}
	return a
}

// collect fetches the delivery and opens it.
func (a *asked) collect() []byte {
	a.t.Helper()
	d := must[api.KeyDelivery](a.t)(a.box.Delivery(a.t.Context(), a.ID, api.DeliveryRequest{PublicKey: a.private.PublicKey()}))
	return must[[]byte](a.t)(a.private.Open(d, api.DeliveryBinding{Purpose: "key-request", AccountID: a.org.id, RequestID: a.ID,
		DeviceID: a.DeviceID, InstanceID: a.box.id, Nonce: a.nonce, LeaseSeconds: d.LeaseSeconds}))
}

func (a *asked) report(e api.RequestEventName) *asked {
	a.t.Helper()
	if err := a.Report(a.t.Context(), a.ID, api.RequestEvent{Event: e}); err != nil {
		a.t.Fatalf("report %s: %v", e, err)
	}
	return a
}

// mounted carries a request through to a mounted volume.
func (a *asked) mounted() *asked {
	a.t.Helper()
	if a.now().IsZero() || a.Status == api.KeyPending {
		a.approve()
	}
	a.collect()
	return a.report(api.EventMounted)
}

// is fails unless the request is in a status.
func (a *asked) is(want api.KeyStatus) api.KeyRequestDetail {
	a.t.Helper()
	d := must[api.KeyRequestDetail](a.t)(a.admin.KeyRequest(a.t.Context(), a.ID))
	if d.Status != want {
		a.t.Fatalf("request %d is %s (%s), want %s", a.Number, d.Status, d.Reason, want)
	}
	return d
}

func (o *org) deviceIs(id string, want api.DeviceStatus) api.Device {
	o.t.Helper()
	d := must[api.Device](o.t)(o.admin.Device(o.t.Context(), id))
	if d.Status != want {
		o.t.Fatalf("device %s is %q (%s), want %q", d.Name, d.Status, d.StatusDetail, want)
	}
	return d
}

func (b *box) beat(held ...*asked) api.HeartbeatResponse {
	b.t.Helper()
	in := api.Heartbeat{Evidence: b.evidence(""), Held: []api.HeldKey{}, Time: b.now()}
	for _, a := range held {
		in.Held = append(in.Held, api.HeldKey{RequestID: a.ID, DeviceID: a.DeviceID, Mounted: true})
	}
	return must[api.HeartbeatResponse](b.t)(b.Heartbeat(b.t.Context(), in))
}

func (o *org) running(statuses ...string) api.RunningInstances {
	o.t.Helper()
	return must[api.RunningInstances](o.t)(o.approver.RunningInstances(o.t.Context(), url.Values{"status": statuses}))
}

// events lists the account's audit events of a name.
func (o *org) events(name string) []store.AuditRecord {
	o.t.Helper()
	var out []store.AuditRecord
	err := o.store.View(o.t.Context(), func(tx *store.Tx) error {
		var err error
		out, err = store.In[store.AuditRecord](tx.Tenant(o.id)).List(store.Eq("event", name))
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

// policyOf makes a policy that holds the device and its image.
func (o *org) policy(in api.Policy, d api.Device) api.Policy {
	o.t.Helper()
	in.DeviceIDs, in.ImageIDs = []string{d.ID}, []string{d.ImageID}
	if in.LeaseSeconds == 0 {
		in.LeaseSeconds, in.HeartbeatSeconds = 60, 10
	}
	in.RevokeMode = api.RevokeUnmount
	return must[api.Policy](o.t)(o.admin.CreatePolicy(o.t.Context(), in))
}

// noPort80 approves machines that do not listen on port 80.
func noPort80(name string) api.Policy {
	return api.Policy{Name: name, OnMatch: api.ActionApprove, OnFailure: api.ActionManual, Rules: []api.Rule{{Fact: api.FactTCPPorts,
		Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpLacks, Value: "80"}}}}}
}

// allEvents lists the account's whole audit log.
func allEvents(o *org) []store.AuditRecord {
	o.t.Helper()
	var out []store.AuditRecord
	err := o.store.View(o.t.Context(), func(tx *store.Tx) error {
		var err error
		out, err = store.In[store.AuditRecord](tx.Tenant(o.id)).List()
		return err
	})
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}
