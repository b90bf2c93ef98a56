//go:build pkcs11

package rootkey

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"

	"keyward/broker/internal/keystore"
)

// What a wrapped key is in a token: the 12-byte nonce, then ciphertext and 16-byte tag of CKM_AES_GCM (PKCS#11 v2.40,
// current mechanisms, 2.10.4).
const (
	tokenNonce = 12
	tokenTag   = 16
)

// token is an AES-256 key in a PKCS#11 token. It is made not extractable and never leaves the token. One session serves
// all calls, one after another.
type token struct {
	d   Description
	pin string

	mu      sync.Mutex
	ctx     *pkcs11.Ctx
	session pkcs11.SessionHandle
	open    bool
	key     pkcs11.ObjectHandle
	name    string
}

// modules are the libraries that this process has loaded: each may be initialised once.
var modules = struct {
	mu   sync.Mutex
	open map[string]*pkcs11.Ctx
}{open: map[string]*pkcs11.Ctx{}}

func module(path string) (*pkcs11.Ctx, error) {
	modules.mu.Lock()
	defer modules.mu.Unlock()
	if ctx := modules.open[path]; ctx != nil {
		return ctx, nil
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("%w: %s is no PKCS#11 library that can be loaded: name the one of your token, such as /usr/lib/softhsm/libsofthsm2.so", keystore.ErrUnreachable, path)
	}
	if err := ctx.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		ctx.Destroy()
		return nil, fmt.Errorf("%w: starting %s: %w", keystore.ErrUnreachable, path, err)
	}
	modules.open[path] = ctx
	return ctx, nil
}

func newToken(d Description, create bool) (place, error) {
	t := &token{d: d}
	var err error
	if t.pin, err = readSecret(d.PINFrom); err != nil {
		return nil, fmt.Errorf("reading the PIN of token %s: %w", d.Token, err)
	}
	if t.ctx, err = module(d.Module); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.logOn(create); err != nil {
		return nil, errors.Join(err, t.logOff())
	}
	return t, nil
}

func (t *token) id() string { return t.name }

// logOn opens a session and finds the key. The caller holds the lock.
func (t *token) logOn(create bool) error {
	slot, serial, err := t.slot()
	if err != nil {
		return err
	}
	if t.session, err = t.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return t.unreachable("opening a session", err)
	}
	t.open = true
	if err := t.ctx.Login(t.session, pkcs11.CKU_USER, t.pin); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_USER_ALREADY_LOGGED_IN)) {
		return t.unreachable("logging on (check the PIN; tokens lock after some wrong ones)", err)
	}
	found, err := t.find()
	if err != nil {
		return err
	}
	if !found {
		if !create || t.name != "" {
			return t.unreachable("looking for the key", fmt.Errorf("it has no AES key %q: keyward-broker init makes one", t.d.Key))
		}
		if err := t.generate(); err != nil {
			return err
		}
	}
	t.name = t.d.id(serial, t.d.Token, t.d.Key)
	return nil
}

func (t *token) logOff() error {
	if !t.open {
		return nil
	}
	t.open = false
	return t.ctx.CloseSession(t.session)
}

// slot finds the slot of the token with the label. Two tokens with one label are refused.
func (t *token) slot() (uint, string, error) {
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return 0, "", t.unreachable("listing tokens", err)
	}
	var at uint
	var serial string
	n := 0
	for _, s := range slots {
		info, err := t.ctx.GetTokenInfo(s)
		if err == nil && info.Label == t.d.Token {
			at, serial = s, info.SerialNumber
			n++
		}
	}
	if n != 1 {
		return 0, "", t.unreachable("looking for the token", fmt.Errorf("%d of %d tokens have the label %q, wanted is one", n, len(slots), t.d.Token))
	}
	return at, serial, nil
}

func (t *token) find() (bool, error) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.d.Key),
	}
	if err := t.ctx.FindObjectsInit(t.session, template); err != nil {
		return false, t.unreachable("looking for the key", err)
	}
	keys, _, err := t.ctx.FindObjects(t.session, 2)
	err = errors.Join(err, t.ctx.FindObjectsFinal(t.session))
	if err != nil {
		return false, t.unreachable("looking for the key", err)
	}
	if len(keys) > 1 {
		return false, t.unreachable("looking for the key", fmt.Errorf("several keys have the label %q", t.d.Key))
	}
	if len(keys) == 0 {
		return false, nil
	}
	t.key = keys[0]
	got, err := t.ctx.GetAttributeValue(t.session, t.key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, nil), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, nil)})
	if err != nil {
		return false, t.unreachable("looking at the key", err)
	}
	if extractable := got[0].Value; !slices.Equal(extractable, []byte{0}) {
		return false, fmt.Errorf("key %q of token %q can be extracted, so it protects no better than a file: make one that cannot", t.d.Key, t.d.Token)
	}
	if n := got[1].Value; len(n) == 0 || n[0] != 32 {
		return false, fmt.Errorf("key %q of token %q is not AES-256: make one of 32 bytes", t.d.Key, t.d.Token)
	}
	return true, nil
}

// generate makes the key in the token: AES-256, kept, sensitive, not extractable, for nothing but encryption.
func (t *token) generate() error {
	id := make([]byte, 16)
	rand.Read(id)
	key, err := t.ctx.GenerateKey(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32), pkcs11.NewAttribute(pkcs11.CKA_LABEL, t.d.Key), pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
	})
	if err != nil {
		return t.unreachable("making the key", err)
	}
	t.key = key
	return nil
}

func (t *token) encrypt(aad, plain []byte) ([]byte, error) {
	nonce := make([]byte, tokenNonce)
	rand.Read(nonce)
	var out []byte
	err := t.do("wrapping", func() error {
		params := pkcs11.NewGCMParams(nonce, aad, 8*tokenTag)
		defer params.Free()
		if err := t.ctx.EncryptInit(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, t.key); err != nil {
			return err
		}
		sealed, err := t.ctx.Encrypt(t.session, plain)
		if err == nil { // some modules choose the nonce themselves
			out = append(slices.Clone(params.IV()), sealed...)
		}
		return err
	})
	if err == nil && len(out) != tokenNonce+len(plain)+tokenTag {
		return nil, t.unreachable("wrapping", fmt.Errorf("it gave %d bytes for %d", len(out), len(plain)))
	}
	return out, err
}

func (t *token) decrypt(aad, sealed []byte) ([]byte, error) {
	if len(sealed) <= tokenNonce+tokenTag {
		return nil, fmt.Errorf("%d bytes were wrapped by no token: %w", len(sealed), keystore.ErrUnwrap)
	}
	var plain []byte
	err := t.do("unwrapping", func() error {
		params := pkcs11.NewGCMParams(sealed[:tokenNonce], aad, 8*tokenTag)
		defer params.Free()
		if err := t.ctx.DecryptInit(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, t.key); err != nil {
			return err
		}
		var err error
		plain, err = t.ctx.Decrypt(t.session, sealed[tokenNonce:])
		return err
	})
	return plain, err
}

// notOpened are what tokens say when the tag does not fit. SoftHSM says CKR_GENERAL_ERROR.
var notOpened = []pkcs11.Error{pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID, pkcs11.CKR_SIGNATURE_INVALID, pkcs11.CKR_GENERAL_ERROR}

// do runs a call. When it fails for another reason than the bytes, the session may have gone with the token: a new one is
// tried once.
func (t *token) do(doing string, call func() error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if t.open {
		if err = call(); err == nil {
			return nil
		}
		var code pkcs11.Error
		if doing == "unwrapping" && errors.As(err, &code) && slices.Contains(notOpened, code) && t.alive() {
			return fmt.Errorf("token %s: %w: %w", t.d.Token, keystore.ErrUnwrap, err)
		}
	}
	_ = t.logOff() // what is lost cannot be closed
	if again := t.logOn(false); again != nil {
		return errors.Join(again, err)
	}
	if err = call(); err != nil {
		return t.unreachable(doing, err)
	}
	return nil
}

// alive says whether the session still counts, to tell a bad ciphertext from a token that is gone.
func (t *token) alive() bool {
	_, err := t.ctx.GetSessionInfo(t.session)
	return err == nil
}

func (t *token) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.logOff()
}

func (t *token) unreachable(doing string, err error) error {
	return fmt.Errorf("%w in token %q of %s: %s: %w", keystore.ErrUnreachable, t.d.Token, t.d.Module, doing, err)
}
