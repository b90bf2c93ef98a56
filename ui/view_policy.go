package ui

// PoliciesPage lists policies.
type PoliciesPage struct {
	Frame
	Rows      []PolicyRow
	CanDelete bool
	Create    *Button
	Checks    *Button // leads to the schedule of integrity checks
	Empty     Empty
}

// PolicyRow is one policy of the list.
type PolicyRow struct {
	ID          string
	Policy      Link
	Description string
	Default     bool
	Rules       int
	Images      int
	Devices     int
	OnMatch     string
	OnFailure   string
	Deletable   bool
}

// PolicyPage creates or edits a policy: information, images, devices, rules, actions and a preview in one form.
type PolicyPage struct {
	Frame
	New      bool
	Default  bool
	CanWrite bool
	Action   string
	Version  int64
	Info     []Field
	Images   Picker
	Devices  Picker
	Rules    []RuleForm
	Facts    []Option // for another rule
	Actions  []Field
	NoRules  bool
	Preview  Preview
	Back     Link
}

// Picker chooses members of a policy.
type Picker struct {
	Name       string
	Rows       []Candidate
	Empty      string
	Note       string
	SearchHint string
}

// RuleForm is one rule of the form.
type RuleForm struct {
	Index      int
	Title      string
	Help       string
	Fact       Field
	Subject    *Field // of which package, file or product the fact is; nil for facts of the whole machine
	Match      Field
	ShowMatch  bool
	Conditions []ConditionForm
	// Names are the names of facts, by title, for a rule that is an expression.
	Names  []Pair
	CanAdd bool
	Error  string
}

// ConditionForm is one condition of a rule.
type ConditionForm struct {
	Index    int
	Operator Field
	Value    Field
	Last     bool // the only condition; it goes with its rule
}
