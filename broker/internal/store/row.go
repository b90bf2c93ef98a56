package store

import (
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// identity is what the gateway fills and checks on every row that has a life of its own.
type identity struct {
	id                   *string
	createdAt, updatedAt *time.Time
	version              *int64
}

type identified interface{ identity() identity }

func (b *Base) identity() identity { return identity{&b.ID, &b.CreatedAt, &b.UpdatedAt, &b.Version} }

func (a *Account) identity() identity { return identity{&a.ID, &a.CreatedAt, &a.UpdatedAt, &a.Version} }

func (k *RootKey) identity() identity { return identity{&k.ID, &k.CreatedAt, &k.UpdatedAt, &k.Version} }

func (h *RootKeyHolder) identity() identity {
	return identity{&h.ID, &h.CreatedAt, &h.UpdatedAt, &h.Version}
}

// tenantRow is a row of a tenant's table.
type tenantRow interface{ account() *string }

func (b *Base) account() *string            { return &b.AccountID }
func (r *AuditRecord) account() *string     { return &r.AccountID }
func (c *AuditCheckpoint) account() *string { return &c.AccountID }
func (n *AuditNode) account() *string       { return &n.AccountID }
func (a *AuditTombstone) account() *string  { return &a.AccountID }

// models are all tables, in an order in which they can be filled.
func models() []any {
	return []any{&RootKey{}, &RootKeyHolder{}, &Account{}, &User{}, &Session{}, &EnrolToken{}, &Image{}, &Instance{}, &Device{}, &DeviceKey{}, &RAIDSet{},
		&Policy{}, &PolicyImage{}, &KeyRequest{}, &KeyRequestEvent{}, &Notice{}, &KeyRequestApproval{}, &DeviceSighting{}, &RecoveryCode{}, &Job{}, &Nonce{}, &IdempotencyRecord{},
		&AuditTombstone{}, &AuditRecord{}, &AuditCheckpoint{}, &AuditNode{}, &RecoveryKey{}, &OfflineRecord{}, &DeepSecuritySettings{},
		&KeyExport{}, &KeyExportApproval{}, &RecoveryEnvelope{}}
}

// storable brings a row's times into the form that both databases return (UTC, microseconds), so that a row that was
// written equals the row that is read, and refuses text that only one of them would take.
func storable(row any) error {
	return eachField(reflect.ValueOf(row).Elem(), true)
}

// utc brings the times of a row that was read into UTC: PostgreSQL returns them in the machine's zone.
func utc(row any) {
	_ = eachField(reflect.ValueOf(row).Elem(), false)
}

func eachField(v reflect.Value, check bool) error {
	for i := range v.NumField() {
		f, sf := v.Field(i), v.Type().Field(i)
		if sf.Anonymous {
			if err := eachField(f, check); err != nil {
				return err
			}
			continue
		}
		switch x := f.Interface().(type) {
		case time.Time:
			f.Set(reflect.ValueOf(x.UTC().Truncate(time.Microsecond)))
		case *time.Time:
			if x != nil {
				t := x.UTC().Truncate(time.Microsecond)
				f.Set(reflect.ValueOf(&t))
			}
		default:
			if check && f.Kind() == reflect.String && (strings.IndexByte(f.String(), 0) >= 0 || !utf8.ValidString(f.String())) {
				return fmt.Errorf("%w: field %s holds NUL bytes or is not UTF-8", ErrInvalid, sf.Name)
			}
		}
	}
	return nil
}
