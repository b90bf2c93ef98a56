package rbac

import (
	_ "embed"
	"encoding/csv"
	"fmt"
	"strings"
)

//go:embed matrix.csv
var matrixCSV string

// matrix is the table, read once; a broken table stops the program at start, before it could grant anything.
var matrix = mustParse(matrixCSV)

// Row says which roles may perform one operation.
type Row struct {
	// Function is the line of the roles table that people read, for example "Devices and RAID sets".
	Function  string
	Operation Operation
	// Roles holds the names of the roles that are allowed, in the order of Roles().
	Roles []string
}

// Matrix returns the whole table, one row an operation. The result is the caller's own.
func Matrix() []Row {
	rows := make([]Row, len(matrix))
	for i, row := range matrix {
		row.Roles = append([]string(nil), row.Roles...)
		rows[i] = row
	}
	return rows
}

// Operations returns every operation in the order of the matrix.
func Operations() []Operation {
	operations := make([]Operation, len(matrix))
	for i, row := range matrix {
		operations[i] = row.Operation
	}
	return operations
}

func mustParse(text string) []Row {
	rows, err := parse(text)
	if err != nil {
		panic("rbac: embedded matrix: " + err.Error())
	}
	return rows
}

// parse reads the table strictly: a cell is "allow" or "-", an operation stands on one line only, and the columns are
// the roles that the package describes, so a typing error cannot become a permission.
func parse(text string) ([]Row, error) {
	records, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(records) < 2 {
		return nil, fmt.Errorf("no rows")
	}
	head := records[0]
	if len(head) != 2+len(roles) || head[0] != "function" || head[1] != "operation" {
		return nil, fmt.Errorf("unexpected heading %q", head)
	}
	for i, role := range roles {
		if head[2+i] != role.Name {
			return nil, fmt.Errorf("column %d is %q, want %q", 3+i, head[2+i], role.Name)
		}
	}
	seen := map[Operation]bool{}
	rows := make([]Row, 0, len(records)-1)
	for _, record := range records[1:] {
		row := Row{Function: record[0], Operation: Operation(record[1])}
		if row.Function == "" || row.Operation == "" || seen[row.Operation] {
			return nil, fmt.Errorf("line of %q: empty or repeated", record[1])
		}
		seen[row.Operation] = true
		for i, cell := range record[2:] {
			switch cell {
			case "allow":
				row.Roles = append(row.Roles, roles[i].Name)
			case "-":
			default:
				return nil, fmt.Errorf("line of %q: cell %q is neither allow nor -", row.Operation, cell)
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}
