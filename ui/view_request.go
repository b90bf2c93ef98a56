package ui

// LogOnPage asks who is there.
type LogOnPage struct {
	Frame
	Account, User Field
	Password      Field
	Next          string // where to go after log-on
}

// ProblemPage says what failed and what to do next.
type ProblemPage struct {
	Frame
	Status  int
	Detail  string
	Hint    string
	Fields  []Pair // what is wrong with which field
	Request string // the request's ID, as the broker's log has it
	Back    Link
}

// RunningInstancesPage lists key requests.
type RunningInstancesPage struct {
	Frame
	Notices  Notices
	Counters []Counter
	Chips    []Chip
	Search   Field
	Status   string // the current filter, kept by the search form
	Rows     []RequestRow
	Pager    Pager
	Empty    Empty
}

// Notices are what happened by itself and nobody has put aside.
type Notices struct {
	Rows       []Notice
	More       int64 // how many are not shown
	CanDismiss bool
}

// Notice is one of them.
type Notice struct {
	ID    string
	Flash Flash
	At    When
	About Link
	// Stays says that it ends by itself and cannot be put aside.
	Stays bool
}

// RequestRow is one key request of the list.
type RequestRow struct {
	ID        string
	Number    int64
	Key       Badge
	Integrity Badge
	Unknown   string // why the integrity is unknown
	KeyAge    string // since when, or when the key is taken
	Checked   string // when evidence was judged last
	Overdue   bool   // a check has gone unanswered
	URL       string
	Device    Link
	Image     Link
	Instance  Link
	Policy    Link
	Provider  string
	Requested When
}

// KeyRequestPage shows why a request was judged as it was, and takes a decision where one is open.
type KeyRequestPage struct {
	Frame
	Key       Badge
	Integrity Badge
	// Reason is one sentence on how the request got where it is.
	Reason  string
	Facts   []Pair // of the request: number, instance, policy, times
	Device  []Pair // summary of the device or RAID set
	Rules   []RuleCount
	Values  []KeyValue
	History []HistoryLine
	// Approvals is nil where one person decides and nobody has.
	Approvals *Approvals
	// Decide is nil when nothing is to be decided, or not by this person; Closed then says why.
	Decide *Decide
	Assign *Assign
	Revoke *Button
	Ignore *Button // of a revocation that is pending
	Check  string  // where a check is asked for; empty where there is nothing to check
	Closed string
	Back   Link
}

// RuleCount is a counter with a check box that shows or hides the rules of one status.
type RuleCount struct {
	Name  string // failed, passed, informational
	Badge Badge
	Count int
	Text  string
}

// KeyValue is a row of the Key Values table.
type KeyValue struct {
	Name      string // of the status: failed, passed, informational
	Rule      string
	Condition string
	Actual    string
	Grade     *Badge
	Source    string
	At        *When // when the value was collected
	Status    Badge
}

// HistoryLine is one change of a request's state.
type HistoryLine struct {
	At     When
	Status Badge
	Event  string
	Actor  string
	Reason string
}

// Decide is the form that approves or denies.
type Decide struct {
	ApproveURL, DenyURL string
	Version             int64
	Reason              Field
	// Code is asked for where an approval needs a fresh second factor.
	Code   *Field
	Cancel string
	// Warning is shown above the buttons, for example when rules failed.
	Warning string
}

// Approvals says who has approved a request, and how many must.
type Approvals struct {
	Text string
	Rows []ApprovalRow
}

// ApprovalRow is one person's approval.
type ApprovalRow struct {
	User   string
	At     When
	Reason string
	State  Badge
}

// Assign is the form that puts an Unknown request's device into a policy.
type Assign struct {
	URL    string
	Policy Field
	Text   string
}
