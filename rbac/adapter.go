package rbac

import (
	"errors"
	"fmt"

	"github.com/casbin/casbin/v2/model"
	"github.com/casbin/casbin/v2/persist"
)

// errReadOnly refuses every change: what a role may do is part of the program and is changed by a release.
var errReadOnly = errors.New("the role matrix is part of the program and cannot be changed at run time")

// tableAdapter feeds the embedded matrix to Casbin.
type tableAdapter struct{ rows []Row }

var _ persist.Adapter = tableAdapter{}

func (a tableAdapter) LoadPolicy(m model.Model) error {
	for _, row := range a.rows {
		for _, role := range row.Roles {
			if err := persist.LoadPolicyArray([]string{"p", role, string(row.Operation)}, m); err != nil {
				return fmt.Errorf("load %s for %s: %w", row.Operation, role, err)
			}
		}
	}
	return nil
}

func (tableAdapter) SavePolicy(model.Model) error                              { return errReadOnly }
func (tableAdapter) AddPolicy(string, string, []string) error                  { return errReadOnly }
func (tableAdapter) RemovePolicy(string, string, []string) error               { return errReadOnly }
func (tableAdapter) RemoveFilteredPolicy(string, string, int, ...string) error { return errReadOnly }
