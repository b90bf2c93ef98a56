package httpapi_test

import (
	"archive/zip"
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"io/fs"
	"testing"

	"keyward/broker/api"
	"keyward/broker/client"
)

// imported is a volume that was there before, as its machine would hand it over.
func (b *box) imported(d api.AssignedDevice, cipher string, bits int) (api.VolumeRecord, []byte) {
	b.t.Helper()
	n := must[int](b.t)(client.VolumeKeyBytes(cipher, bits))
	key := make([]byte, n)
	rand.Read(key)
	v := *b.record(d, key)
	v.Cipher, v.KeyBits, v.SectorSize = cipher, bits, 512
	v.Digest = must[[]byte](b.t)(pbkdf2.Key(sha256.New, string(key), v.DigestSalt, v.DigestIterations, 32))
	return v, key
}

// exported is the opened export of a device's key.
func (o *org) exported(id string) client.Exported {
	o.t.Helper()
	var out bytes.Buffer
	if err := o.person(api.RoleSecurityAdmin).ExportKeys(o.t.Context(), api.ExportWrite{DeviceIDs: []string{id}, Passphrase: "correct horse battery"}, &out); err != nil {
		o.t.Fatal(err)
	}
	z := must[*zip.Reader](o.t)(zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len())))
	f := must[fs.File](o.t)(z.Open(id + ".xml"))
	defer f.Close()
	return must[client.Exported](o.t)(client.OpenExported(f, "correct horse battery"))
}

// handOver asks for an offer and seals a key to it.
func (b *box) handOver(deviceID string, v api.VolumeRecord, key []byte) api.ImportKey {
	b.t.Helper()
	nonce := must[api.NonceResponse](b.t)(b.Nonce(b.t.Context())).Nonce
	offer := must[api.ImportOffer](b.t)(b.ImportOffer(b.t.Context(), deviceID, api.ImportOfferRequest{Nonce: nonce}))
	return must[api.ImportKey](b.t)(client.SealImport(offer.PublicKey, api.ImportBinding{AccountID: offer.AccountID, DeviceID: deviceID,
		InstanceID: b.id, Nonce: nonce}, v, key))
}

// Y-52: a volume that was encrypted before lives as any other once its key was handed over: asked for, approved, delivered,
// exported. Both ciphers, every key size.
func TestImport_thenTheVolumeLivesAsAnyOther(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		for cipher, bits := range map[string]int{api.CipherXTS: 128, api.CipherESSIV: 192} {
			id := b.publish(disk(cipher))[cipher].ID
			o.configured(id, "/mnt/"+cipher)
			v, key := b.imported(api.AssignedDevice{ID: id, KeyBits: bits}, cipher, bits)
			in := b.handOver(id, v, key)
			got := must[api.AssignedDevice](t)(b.Import(t.Context(), id, in))
			if got.Status != api.DeviceEncrypted || got.KeyBits != bits || got.Volume == nil || got.Volume.Cipher != cipher {
				t.Fatalf("%s: %+v", cipher, got)
			}
			_, err := b.Import(t.Context(), id, in)
			wantProblem(t, err, 409, "not-importable")
			if !bytes.Equal(b.ask(id).approve().collect(), key) {
				t.Errorf("%s: the delivered key is another one", cipher)
			}
			if e := o.exported(id); !bytes.Equal(e.Key, key) || e.Volume.Cipher != cipher {
				t.Errorf("%s: the exported key is another one", cipher)
			}
		}
		eq(t, "imports on the log", len(o.events("device.imported")), 2)
	})
}

func TestImport_refusals(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		ctx := t.Context()
		id := b.publish(disk("data"))["data"].ID
		nonce := must[api.NonceResponse](t)(b.Nonce(ctx)).Nonce
		_, err := b.ImportOffer(ctx, id, api.ImportOfferRequest{Nonce: nonce})
		wantProblem(t, err, 409, "not-importable") // nobody has configured it
		o.configured(id, "/mnt/data")
		v, key := b.imported(api.AssignedDevice{ID: id, KeyBits: 256}, api.CipherXTS, 256)
		for name, change := range map[string]func(*api.VolumeRecord){
			"another device":  func(v *api.VolumeRecord) { v.Device = "other" },
			"another account": func(v *api.VolumeRecord) { v.Account = "other" },
			"another broker":  func(v *api.VolumeRecord) { v.Broker = "https://elsewhere" },
			"null cipher":     func(v *api.VolumeRecord) { v.Cipher = "cipher_null-ecb" },
			"no cipher":       func(v *api.VolumeRecord) { v.Cipher = "" },
			"larger":          func(v *api.VolumeRecord) { v.DataSize = 1 << 50 },
			"another digest":  func(v *api.VolumeRecord) { v.Digest = make([]byte, 32) },
			"another length":  func(v *api.VolumeRecord) { v.KeyBits = 128 },
		} {
			bad := v
			change(&bad)
			if _, err := b.Import(ctx, id, b.handOver(id, bad, key)); err == nil {
				t.Errorf("%s was taken", name)
			}
		}
		good := b.handOver(id, v, key)
		other := good
		other.Volume.Epoch++
		_, err = b.Import(ctx, id, other)
		wantProblem(t, err, 422, "invalid") // the record is bound to the key
		other = good
		other.Nonce = must[api.NonceResponse](t)(b.Nonce(ctx)).Nonce
		_, err = b.Import(ctx, id, other)
		wantProblem(t, err, 422, "invalid") // so is the nonce
		_, err = o.machine("db2").Import(ctx, id, good)
		wantProblem(t, err, 404, "not-found")
		o.deviceIs(id, api.DeviceConfigured)
		if _, err := b.Import(ctx, id, good); err != nil {
			t.Errorf("the import that nothing was wrong with: %v", err)
		}
	})
}
