package store

import "errors"

// The errors that callers tell apart. Everything else a Table returns is a fault of the database and ends the
// transaction.
var (
	// ErrNotFound means that no row of this tenant matches.
	ErrNotFound = errors.New("store: not found")
	// ErrDuplicate means that a unique value is taken. After a failed Insert the transaction goes on; after a failed
	// Update it can only be rolled back.
	ErrDuplicate = errors.New("store: already exists")
	// ErrStale means that the row was changed since it was read; read it again.
	ErrStale = errors.New("store: changed by someone else since it was read")
	// ErrFull means that the database has no space left. Nothing of the transaction was kept.
	ErrFull = errors.New("store: no space left for the database; free space on its disk and try again")
	// ErrInvalid means that a value can be stored by no database: text with NUL bytes or that is not UTF-8.
	ErrInvalid = errors.New("store: text is not storable")
	// ErrReferenced means that a row is still needed by another one, or names one that does not exist.
	ErrReferenced = errors.New("store: a referenced row is missing or still in use")
	// ErrBusy means that other transactions kept winning until the time was over.
	ErrBusy = errors.New("store: too many changes at the same time; try again")
)

// faultKind classifies an error of a driver.
type faultKind int

const (
	faultOther faultKind = iota
	faultDuplicate
	faultReferenced
	faultFull
	faultRetry
)
