package rbac

// RoleInfo describes a role to people.
type RoleInfo struct {
	// Name is the role on the wire, for example "key-approver".
	Name        string
	Title       string
	Description string
	// Capabilities are the functions that the role has, with how far they go: "Images (view only)".
	Capabilities []string
}

// roles lists the five roles from most to least privileged; the columns of the matrix stand in this order.
var roles = []RoleInfo{
	{
		Name:  "account-administrator",
		Title: "Account Administrator",
		Description: "Manages the account: users, policies, images and devices, and decides key requests. " +
			"Cannot export device keys, delete logs or report on device keys.",
	},
	{
		Name:  "security-administrator",
		Title: "Security Administrator",
		Description: "Audits and exports device keys, and reports on them. " +
			"The only role that can take a device key out of the broker.",
	},
	{
		Name:        "data-analyst",
		Title:       "Data Analyst",
		Description: "Works with reports and reads logs; nothing else.",
	},
	{
		Name:  "auditor",
		Title: "Auditor",
		Description: "Sees every setting without changing any, has full use of reports and logs, " +
			"and is the only role that can delete archived logs.",
	},
	{
		Name:        "key-approver",
		Title:       "Key Approver",
		Description: "Approves, denies and revokes keys; sees policies, images and devices without changing them.",
	},
}

// Roles returns the five roles, most privileged first, with their capabilities as the matrix has them.
func Roles() []RoleInfo {
	infos := make([]RoleInfo, len(roles))
	for i, role := range roles {
		role.Capabilities = capabilities(role.Name)
		infos[i] = role
	}
	return infos
}

// capabilities folds the operations of each function into one line: all of them, or reading only.
func capabilities(role string) []string {
	var lines []string
	for start := 0; start < len(matrix); {
		end, granted, reads, writes := start, 0, 0, 0
		for ; end < len(matrix) && matrix[end].Function == matrix[start].Function; end++ {
			if !matrix[end].grants(role) {
				continue
			}
			granted++
			if matrix[end].Operation.readsOnly() {
				reads++
			} else {
				writes++
			}
		}
		switch {
		case granted == 0:
		case writes == 0 && reads < end-start:
			lines = append(lines, matrix[start].Function+" (view only)")
		default:
			lines = append(lines, matrix[start].Function)
		}
		start = end
	}
	return lines
}

func (r Row) grants(role string) bool {
	for _, allowed := range r.Roles {
		if allowed == role {
			return true
		}
	}
	return false
}

func (o Operation) readsOnly() bool {
	const suffix = ".read"
	return len(o) > len(suffix) && o[len(o)-len(suffix):] == suffix
}
