package store

import (
	"fmt"
	"reflect"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// scopeKey is the GORM setting that carries the scope of a statement.
const scopeKey = "keyward:scope"

// scope says on whose behalf a statement runs. The zero value is not a scope.
type scope struct {
	account string
	// any marks the few look-ups that find out which tenant a caller belongs to (lookup.go).
	any bool
}

// guard makes GORM itself add the tenant to every statement on a tenant's table and panic when there is none. A missing
// tenant is a bug that would show one customer's keys to another, so it may not go on, in tests or in production.
func guard(g *gorm.DB) error {
	c := g.Callback()
	if err := c.Query().Before("gorm:query").Register("keyward:tenant", narrow); err != nil {
		return err
	}
	if err := c.Row().Before("gorm:row").Register("keyward:tenant", narrow); err != nil {
		return err
	}
	if err := c.Update().Before("gorm:update").Register("keyward:tenant", narrow); err != nil {
		return err
	}
	if err := c.Delete().Before("gorm:delete").Register("keyward:tenant", narrow); err != nil {
		return err
	}
	return c.Create().Before("gorm:create").Register("keyward:tenant", stamp)
}

// scopeOf returns the scope of a statement on a tenant's table; false when the table belongs to no tenant.
func scopeOf(db *gorm.DB) (scope, bool) {
	s := db.Statement.Schema
	if s == nil {
		panic("store: raw SQL outside the gateway: " + db.Statement.SQL.String())
	}
	if s.FieldsByDBName["account_id"] == nil {
		return scope{}, false
	}
	v, _ := db.Get(scopeKey)
	sc, _ := v.(scope)
	if sc.account == "" && !sc.any {
		panic("store: table " + s.Table + " was touched without a tenant; use store.In")
	}
	return sc, true
}

func narrow(db *gorm.DB) {
	sc, tenant := scopeOf(db)
	if !tenant || sc.any {
		return
	}
	db.Statement.AddClause(clause.Where{Exprs: []clause.Expression{
		clause.Eq{Column: clause.Column{Table: clause.CurrentTable, Name: "account_id"}, Value: sc.account},
	}})
}

func stamp(db *gorm.DB) {
	sc, tenant := scopeOf(db)
	if !tenant {
		return
	}
	row := reflect.Indirect(db.Statement.ReflectValue)
	if row.Kind() != reflect.Struct {
		panic(fmt.Sprintf("store: rows of %s are inserted one at a time", db.Statement.Table))
	}
	if got, _ := db.Statement.Schema.FieldsByDBName["account_id"].ValueOf(db.Statement.Context, row); got != sc.account {
		panic(fmt.Sprintf("store: a row of account %v was written to %s in the scope of account %s", got, db.Statement.Table, sc.account))
	}
}
