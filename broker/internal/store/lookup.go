package store

import (
	"encoding/hex"
	"errors"
	"fmt"

	"gorm.io/gorm"
)

// The look-ups of this file find out which tenant a caller belongs to, so they run before there is a tenant. Each is by
// a value that cannot be guessed or that names the account itself.

// FindSession returns the session with the SHA-256 of its token, or ErrNotFound. It does not check the times.
func (tx *Tx) FindSession(tokenHash []byte) (Session, error) {
	return anywhere[Session](tx).First(Eq("token_hash", tokenHash))
}

// FindEnrolToken returns the enrolment token with the ID, or ErrNotFound. It checks neither secret nor times.
func (tx *Tx) FindEnrolToken(id string) (EnrolToken, error) {
	return anywhere[EnrolToken](tx).First(Eq("id", id))
}

// FindInstanceByCert returns the instance whose client certificate has the SHA-256, its current one or the one that its
// last renewal was asked with, or ErrNotFound: its ID, account and whether it was revoked.
func (tx *Tx) FindInstanceByCert(fingerprint []byte) (Instance, error) {
	// Without its evidence, which is large: every call of every machine is looked up here.
	who := Only("id", "account_id", "revoked_at")
	inst, err := anywhere[Instance](tx).First(Eq("cert_fingerprint", fingerprint), who)
	if errors.Is(err, ErrNotFound) && len(fingerprint) > 0 { // most machines have no former one
		return anywhere[Instance](tx).First(Eq("former_certificate", hex.EncodeToString(fingerprint)), who)
	}
	return inst, err
}

// FindImageByCert returns the image whose certificate has the SHA-256, or ErrNotFound.
func (tx *Tx) FindImageByCert(fingerprint []byte) (Image, error) {
	if len(fingerprint) == 0 { // most images have none
		return Image{}, fmt.Errorf("%w: Image", ErrNotFound)
	}
	return anywhere[Image](tx).First(Eq("certificate", hex.EncodeToString(fingerprint)))
}

// FindAccount returns the account with the ID or, ignoring case, the name.
func (tx *Tx) FindAccount(nameOrID string) (Account, error) {
	if impossible(nameOrID) {
		return Account{}, fmt.Errorf("%w: Account", ErrNotFound)
	}
	return Global[Account](tx).First(Filter{apply: func(q *query) error {
		q.db = q.db.Where(q.db.Session(&gorm.Session{NewDB: true}).
			Where("id = ?", nameOrID).Or("LOWER(name) = LOWER(?)", nameOrID))
		return nil
	}})
}

// DeepSecurityConnections lists the connections to Deep Security Managers of all accounts, for the one who asks them.
func (tx *Tx) DeepSecurityConnections() ([]DeepSecuritySettings, error) {
	return anywhere[DeepSecuritySettings](tx).List(Asc("account_id"))
}

func anywhere[T any](tx *Tx) Table[T] { return Table[T]{tx: tx, scope: scope{any: true}} }
