// Package rbac decides which of the five roles may perform which operation.
//
// The decision is one table, matrix.csv, judged by a Casbin model; both are embedded. What the table does not allow is
// refused, and so is every role or operation it does not know. Roles are plain strings, so the package imports nothing
// of the broker.
package rbac

import (
	_ "embed"
	"fmt"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"
)

//go:embed model.conf
var modelConf string

// Enforcer answers whether a role may perform an operation. It is safe for concurrent use.
type Enforcer struct{ casbin *casbin.SyncedEnforcer }

// New loads the embedded model and matrix.
func New() (*Enforcer, error) {
	m, err := model.NewModelFromString(modelConf)
	if err != nil {
		return nil, fmt.Errorf("read the embedded access model: %w", err)
	}
	enforcer, err := casbin.NewSyncedEnforcer(m, tableAdapter{rows: matrix})
	if err != nil {
		return nil, fmt.Errorf("load the role matrix: %w", err)
	}
	return &Enforcer{casbin: enforcer}, nil
}

// Allowed reports whether role may perform op. Unknown roles and operations, and any failure to decide, are refused.
func (e *Enforcer) Allowed(role string, op Operation) bool {
	ok, err := e.casbin.Enforce(role, string(op))
	return err == nil && ok
}
