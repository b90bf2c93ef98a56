package ui

// LogsPage queries the audit log.
type LogsPage struct {
	Frame
	Filter []Field
	Rows   []LogRow
	Pager  Pager
	CSV    string
	JSONL  string
	Empty  Empty
}

// LogRow is one record of the audit log.
type LogRow struct {
	Sequence int64
	At       When
	Category string
	Event    string
	Actor    string
	Subject  string
	Detail   []Pair
	Hash     string
}

// UsersPage lists the account's users.
type UsersPage struct {
	Frame
	Tabs     []Tab
	Rows     []UserRow
	CanWrite bool
	Create   *Button
}

// UserRow is one user of the list.
type UserRow struct {
	ID        string
	User      Link
	Name      string
	Email     string
	Role      string
	Status    Badge
	LastLogOn When
	Self      bool
}

// RolesPage explains the roles.
type RolesPage struct {
	Frame
	Tabs  []Tab
	Roles []RoleCard
}

// RoleCard is one role.
type RoleCard struct {
	Title, Description string
	Capabilities       []string
	Users              int64
	Own                bool
}

// AccountPage shows the account and how machines reach it.
type AccountPage struct {
	Frame
	Tabs  []Tab
	Facts []Pair
	// Command enrols a machine; it reads the token from its input.
	Command string
}

// TokensPage lists enrolment tokens. Token is the new token's text, shown once.
type TokensPage struct {
	Frame
	Tabs     []Tab
	Token    string
	Command  string
	Rows     []TokenRow
	CanWrite bool
	Create   *Button
	Empty    Empty
}

// TokenRow is one enrolment token.
type TokenRow struct {
	Description string
	UsesLeft    int
	Expires     When
	Expired     bool
	CreatedBy   string
	Created     When
	Revoke      *Button
}

// SessionsPage lists one's own sessions.
type SessionsPage struct {
	Frame
	Rows []SessionRow
}

// SessionRow is one session.
type SessionRow struct {
	ID        string
	Address   string
	UserAgent string
	Created   When
	LastSeen  When
	Expires   When
	Current   bool
	Revoke    string // address of the form
}

// FormAction is a button that sends a form to an address of its own.
type FormAction struct{ Label, Action string }

// FormPage is a page with one form: settings, and confirmations of what cannot be undone. Where scripts run, a link
// marked as dialog shows the form in a dialog over the page it was opened from.
type FormPage struct {
	Frame
	Tabs   []Tab
	Action string
	// Lead is shown above the fields, Warning in a frame of its own.
	Lead    []string
	Warning string
	Facts   []Pair
	Hidden  []Pair
	Fields  []Field
	Refused []Pair // what cannot take part in the action, with the reason
	Submit  string
	// Also are further buttons of the form, which send it elsewhere.
	Also   []FormAction
	Danger bool
	// Download says that the answer is a file and the page stays.
	Download bool
	Cancel   string
	// Links lead to further actions, below the form.
	Links []Button
	// Disabled hides the form: nothing can be submitted.
	Disabled bool
}
