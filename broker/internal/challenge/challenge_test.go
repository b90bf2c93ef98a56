package challenge

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// enrolled is a machine of an account.
func enrolled(t *testing.T, st *store.Store) (p tenant.Principal) {
	t.Helper()
	if err := st.Tx(t.Context(), func(tx *store.Tx) error {
		account := store.Account{Name: "acme", TimeZone: "UTC", DateFormat: "x", WrappedKey: []byte{1}, RootKeyID: "r", KeyGeneration: 1}
		if err := store.Global[store.Account](tx).Insert(&account); err != nil {
			return err
		}
		image := store.Image{Name: "i"}
		if err := store.In[store.Image](tx.Tenant(account.ID)).Insert(&image); err != nil {
			return err
		}
		inst := store.Instance{ImageID: image.ID, HostName: "db1"}
		err := store.In[store.Instance](tx.Tenant(account.ID)).Insert(&inst)
		p = tenant.Principal{AccountID: account.ID, Instance: inst.ID}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return p
}

func wantCount(t *testing.T, what string, err error, want bool) {
	t.Helper()
	var r *problem.Problem
	if want && err != nil || !want && (!errors.As(err, &r) || r.Slug() != "nonce-refused") {
		t.Errorf("%s: %v, want that it counts: %t", what, err, want)
	}
}

func TestIssuer_aNonceCountsOnceInItsTimeForItsMachine(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		var offset atomic.Int64
		st := storetest.Open(t, dsn, func() time.Time { return time.Now().Add(time.Duration(offset.Load())) })
		p := enrolled(t, st)
		one, same, other := New([]byte("shared")), New([]byte("shared")), New(nil)
		account := p.AccountID
		spend := func(i *Issuer, p tenant.Principal, value string) error {
			return st.Tx(t.Context(), func(tx *store.Tx) error { return i.Spend(tx.Tenant(account), p, value) })
		}
		value := one.Give(p, st.Now())
		wantCount(t, "one of another broker on the database", spend(same, p, value), true)
		wantCount(t, "the same again", spend(one, p, value), false)
		wantCount(t, "of a broker with another secret", spend(other, p, one.Give(p, st.Now())), false)
		for name, theirs := range map[string]tenant.Principal{"of another machine": {AccountID: p.AccountID, Instance: "x"}, "of another account": {AccountID: "x", Instance: p.Instance}} {
			wantCount(t, name, spend(one, p, one.Give(theirs, st.Now())), false)
		}
		value = one.Give(p, st.Now())
		raw, _ := base64.RawURLEncoding.DecodeString(value)
		for i := range raw {
			changed := append([]byte{}, raw...)
			changed[i] ^= 1
			if _, ok := one.verify(p, base64.RawURLEncoding.EncodeToString(changed)); ok {
				t.Errorf("byte %d changed and it counts", i)
			}
		}
		for _, odd := range []string{"", "x", value[1:], value + "A", value[:len(value)-1] + "="} {
			if _, ok := one.verify(p, odd); ok {
				t.Errorf("%q counts", odd)
			}
		}
		offset.Store(int64(Life + time.Second))
		wantCount(t, "too old", spend(one, p, value), false)
		if err := st.Tx(t.Context(), func(tx *store.Tx) error {
			t := tx.Tenant(p.AccountID)
			if err := Clean(t); err != nil {
				return err
			}
			n, err := store.In[store.Nonce](t).Count()
			if err == nil && n != 0 {
				err = errors.New("used nonces that have ended are kept")
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	i, p := New([]byte("s")), tenant.Principal{AccountID: "a", Instance: "i"}
	ours, theirs := connect(f, tls.VersionTLS13), connect(f, tls.VersionTLS13)
	p.Connection = &tenant.Connection{State: &ours.broker, Began: time.Now()}
	f.Add(i.Give(tenant.Principal{AccountID: "a", Instance: "j"}, time.Now()))
	f.Add("")
	f.Add(api.ConnectionNoncePrefix)
	other, own := theirs.nonce(f, 1), ours.nonce(f, 1)
	f.Add(other)
	f.Add(own[:len(own)-1])
	f.Add(own + "A")
	f.Add(own[:len(own)-43] + other[len(other)-43:])
	f.Fuzz(func(t *testing.T, value string) {
		if _, ok := i.verify(p, value); ok {
			t.Errorf("%q counts, and was never given", value)
		}
	})
}
