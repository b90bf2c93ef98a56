// Package fleet makes machines that were never there: enrolled, each with an encrypted device and its key, as the broker
// would hold them after years of use. Benchmarks and tests of scale ask and report in their name.
package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/pki"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/store"
)

// Maker makes fleets in one account.
type Maker struct {
	Store     *store.Store
	CA        *pki.CA
	Root      keystore.Root
	AccountID string
}

// Machine is what a machine of the fleet needs to ask for its key.
type Machine struct {
	AccountID  string `json:"account_id"`
	InstanceID string `json:"instance_id"`
	DeviceID   string `json:"device_id"`
	// Cert and Key are PEM; empty for machines that never call.
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`
}

// perTransaction is how many machines are stored at once.
const perTransaction = 100

// policyName is the policy that all machines of fleets are under.
const policyName = "Fleet"

// Make stores n more machines under one policy, which approves keys by three rules, and calls made for each. With
// certificates they can call; without they only take up room.
func (m *Maker) Make(ctx context.Context, n int, certificates bool, made func(Machine) error) error {
	var policy store.Policy
	var image store.Image
	var account keystore.AccountKey
	if err := m.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(m.AccountID)
		a, err := store.Global[store.Account](tx).Get(m.AccountID)
		if err != nil {
			return err
		}
		account = inventory.KeyOfAccount(a)
		policy, image, err = home(t)
		return err
	}); err != nil {
		return fmt.Errorf("making the fleet's policy: %w", err)
	}
	for n > 0 {
		var batch []Machine
		err := m.Store.Tx(ctx, func(tx *store.Tx) error {
			batch = batch[:0]
			t := tx.Tenant(m.AccountID)
			for range min(n, perTransaction) {
				one, err := m.machine(t, policy, image, account, certificates)
				if err != nil {
					return err
				}
				batch = append(batch, one)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("making machines: %w", err)
		}
		for _, one := range batch {
			if err := made(one); err != nil {
				return err
			}
		}
		n -= len(batch)
	}
	return nil
}

// home finds or makes what all machines share.
func home(t *store.Tenant) (store.Policy, store.Image, error) {
	image, err := store.In[store.Image](t).First(store.Eq("provider", "native"), store.Eq("identity", "fleet"))
	if err == nil {
		policy, err := store.In[store.Policy](t).First(store.EqFold("name", policyName))
		return policy, image, err
	}
	if !errors.Is(err, store.ErrNotFound) {
		return store.Policy{}, image, err
	}
	if _, err := policyset.Default(t); err != nil {
		return store.Policy{}, image, err
	}
	image = store.Image{Provider: "native", Identity: "fleet", Name: "fleet"}
	rule := func(fact api.FactName, op api.Operator, value string) api.Rule {
		return api.Rule{Fact: fact, Match: api.MatchAll, Conditions: []api.Condition{{Operator: op, Value: value}}}
	}
	const silence = 24 * 3600 // nobody reports for a fleet but in some benchmarks
	policy := store.Policy{Name: policyName, OnMatch: api.ActionApprove, OnFailure: api.ActionManual, LeaseSeconds: 3600, HeartbeatSeconds: 30,
		MissingAfterSeconds: silence, RevokeMode: api.RevokeSuspend, Rules: []api.Rule{rule(api.FactHostName, api.OpStartsWith, "fleet-"),
			rule(api.FactKernelVersion, api.OpGreaterEqual, "6.1"), rule(api.FactTCPPorts, api.OpLacks, "23")}}
	if err := errors.Join(store.In[store.Image](t).Insert(&image), store.In[store.Policy](t).Insert(&policy)); err != nil {
		return policy, image, err
	}
	return policy, image, store.In[store.PolicyImage](t).Insert(&store.PolicyImage{PolicyID: policy.ID, ImageID: image.ID})
}

func (m *Maker) machine(t *store.Tenant, policy store.Policy, image store.Image, account keystore.AccountKey, certificate bool) (Machine, error) {
	now := t.Now()
	name := "fleet-" + uuid.NewString()[:13]
	inst := store.Instance{Base: store.Base{ID: uuid.Must(uuid.NewV7()).String(), AccountID: m.AccountID}, Provider: "native", Identity: name,
		HostName: name, ImageID: image.ID, AgentVersion: "1.0.0", FirstSeenAt: now, EnrolledAt: now, LastSeenAt: &now, SourceIP: "127.0.0.1",
		CertExpiresAt: now.Add(24 * time.Hour)}
	out := Machine{AccountID: m.AccountID, InstanceID: inst.ID}
	if certificate {
		var err error
		if out.Cert, out.Key, inst.CertFingerprint, err = m.certify(inst.ID); err != nil {
			return out, err
		}
	}
	d := store.Device{Provider: "native", Identity: name + "/disk", Name: name + "-disk", Contents: "LUKS2", Size: 1 << 30, Status: api.DeviceEncrypted,
		Platform: "linux", FileSystem: "ext4", MountPoint: "/data", Access: api.AccessReadWrite, KeyBits: 256, ImageID: image.ID, PolicyID: policy.ID,
		InstanceID: inst.ID, HomeInstanceID: inst.ID, Volume: &api.VolumeRecord{UUID: uuid.NewString(), Cipher: "aes-xts-plain64", KeyBits: 256,
			SectorSize: 4096, DataOffset: 16 << 20, DataSize: 1<<30 - 16<<20, DigestSalt: make([]byte, 32), Digest: make([]byte, 32),
			DigestIterations: 1000, Epoch: 1, HeaderHash: make([]byte, 32), Broker: "https://fleet", Account: m.AccountID}}
	if err := errors.Join(store.In[store.Instance](t).Insert(&inst), store.In[store.Device](t).Insert(&d)); err != nil {
		return out, err
	}
	out.DeviceID = d.ID
	if err := store.In[store.DeviceSighting](t).Insert(&store.DeviceSighting{DeviceID: d.ID, InstanceID: inst.ID}); err != nil {
		return out, err
	}
	key, err := keystore.NewDeviceKey(m.Root, account, d.ID, d.KeyBits, 1)
	if err != nil {
		return out, err
	}
	return out, store.In[store.DeviceKey](t).Insert(&store.DeviceKey{DeviceID: d.ID, Bits: key.Bits, Generation: 1, Wrapped: key.Wrapped})
}

// certify makes a key and has it certified, as enrolment does.
func (m *Maker) certify(instanceID string) (certificate, private string, fingerprint []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return "", "", nil, err
	}
	cert, err := m.CA.IssueClient(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), instanceID, m.AccountID, 24*time.Hour)
	if err != nil {
		return "", "", nil, err
	}
	block, _ := pem.Decode(cert)
	sum := sha256.Sum256(block.Bytes)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return string(cert), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), sum[:], err
}
