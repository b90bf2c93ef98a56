package api

import "time"

// Match combines the conditions inside a rule.
type Match string

// All conditions must hold, or any one.
const (
	MatchAll Match = "all"
	MatchAny Match = "any"
)

// Operator compares a fact with a condition's value. Which operators a fact takes depends on its type.
type Operator string

// The operators. Set facts take contains, lacks and only; ranges take between ("a..b") and in (a list or a CIDR).
const (
	OpEqual        Operator = "="
	OpNotEqual     Operator = "!="
	OpLess         Operator = "<"
	OpLessEqual    Operator = "<="
	OpGreater      Operator = ">"
	OpGreaterEqual Operator = ">="
	OpBetween      Operator = "between"
	OpIn           Operator = "in"
	OpStartsWith   Operator = "starts with"
	OpContains     Operator = "contains"
	OpLacks        Operator = "does not contain"
	OpOnly         Operator = "only these"
	OpMatches      Operator = "matches"
	OpOlderThan    Operator = "older than" // seconds, on dates
	OpHolds        Operator = "holds"      // the one operator of an expression rule
)

// FactExpression is not a fact but marks a rule whose conditions are CEL expressions over all facts.
const FactExpression FactName = "expression"

// Condition is one comparison.
type Condition struct {
	Operator Operator `json:"operator"`
	// Value in text form; lists are comma separated, ranges "low..high", addresses may be CIDR prefixes.
	Value string `json:"value"`
}

// Rule judges one fact by one or more conditions. All rules of a policy must hold.
type Rule struct {
	Fact FactName `json:"fact"`
	// Subject says which of several facts of the name is judged, for example the package of "package_version".
	Subject    string      `json:"subject,omitempty"`
	Match      Match       `json:"match"`
	Conditions []Condition `json:"conditions"`
}

// RuleStatus is the outcome of one rule.
type RuleStatus string

// The outcomes; Informational facts were collected but are judged by no rule.
const (
	RuleFailed        RuleStatus = "Failed"
	RulePassed        RuleStatus = "Passed"
	RuleInformational RuleStatus = "Informational"
)

// Finding explains one rule or fact to a person: what was expected, what was found, who vouches for it.
type Finding struct {
	Fact FactName `json:"fact"`
	// Subject as in the rule or the fact.
	Subject string `json:"subject,omitempty"`
	// Title is the name shown to people, for example "Network Services (TCP)".
	Title string `json:"title"`
	// Condition is a formula such as "(>= 1.1.1.1) AND (<= 1.1.1.200)"; empty for informational facts.
	Condition string `json:"condition,omitempty"`
	// Actual is the whole value found, or "no data" with the reason.
	Actual string     `json:"actual"`
	Status RuleStatus `json:"status"`
	Grade  Grade      `json:"grade,omitempty"`
	Source string     `json:"source,omitempty"`
	// At is when the value was collected, by the clock of whoever vouches for it; absent where nobody said so.
	At *time.Time `json:"at,omitempty"`
}

// Verdict is the result of appraising evidence by a policy.
type Verdict struct {
	Integrity Integrity `json:"integrity"`
	Action    Action    `json:"action"`
	// ApproveAfterSeconds is the time after which a pending request that matched every rule is approved by itself;
	// 0 means never.
	ApproveAfterSeconds int64     `json:"approve_after_seconds,omitempty"`
	Findings            []Finding `json:"findings"`
	// Reason is one sentence for people on why this action was taken.
	Reason string `json:"reason"`
}

// Policy is a policy as people read and write it.
type Policy struct {
	ID          string `json:"id,omitempty"`
	Name        string `json:"name" minLength:"1" maxLength:"32"`
	Description string `json:"description,omitempty" maxLength:"1024"`
	Default     bool   `json:"default,omitempty"`
	Rules       []Rule `json:"rules"`
	OnMatch     Action `json:"on_match" enum:"approve,manual,deny"`
	OnFailure   Action `json:"on_failure" enum:"approve,manual,deny"`
	// ApproveAfterSeconds applies only with on_match "manual"; 0 means never.
	ApproveAfterSeconds int64 `json:"approve_after_seconds,omitempty" minimum:"0" maximum:"2592000"`
	// LeaseSeconds is how long a delivered key lives without contact; HeartbeatSeconds how often an agent reports.
	LeaseSeconds     int64 `json:"lease_seconds" minimum:"10" maximum:"2592000"`
	HeartbeatSeconds int64 `json:"heartbeat_seconds" minimum:"1" maximum:"86400"`
	// RevokeMode may be left empty: then a policy whose checks may give a revoked key back suspends, and others unmount.
	RevokeMode RevokeMode `json:"revoke_mode,omitempty" enum:",unmount,suspend"`
	// CheckEnabled judges delivered keys again, on the account's schedule; CheckEveryHeartbeat with every heartbeat too.
	CheckEnabled        bool `json:"check_enabled,omitempty"`
	CheckEveryHeartbeat bool `json:"check_every_heartbeat,omitempty"`
	// OnCheckFailure is what a failed check does; empty means notify. PostponeSeconds is the grace before a key is revoked,
	// with a warning; 0 revokes at once.
	OnCheckFailure  CheckAction `json:"on_check_failure,omitempty" enum:",notify,revoke"`
	PostponeSeconds int64       `json:"postpone_seconds,omitempty" minimum:"0" maximum:"2592000"`
	// MissingAfterSeconds is the silence after which a machine leaves Running Instances; 0 means three heartbeats. It is
	// never less than 15 seconds.
	MissingAfterSeconds int64 `json:"missing_after_seconds,omitempty" minimum:"0" maximum:"2592000"`
	// ResourcePool lets the broker give a machine another free device of this policy when the one that it asks for is in
	// use; each machine gets one device of the policy, and no device goes to two machines.
	ResourcePool bool `json:"resource_pool,omitempty"`
	// ApprovalsNeeded is how many people must approve a request that waits for people; 0 means 1.
	ApprovalsNeeded int64 `json:"approvals_needed,omitempty" minimum:"0" maximum:"10"`
	// SeparateApprover refuses the approval of who enrolled the machine, configured the device or chose the policy.
	SeparateApprover bool `json:"separate_approver,omitempty"`
	// RequestSeconds is how long a request waits for people before it expires; 0 means a week.
	RequestSeconds int64    `json:"request_seconds,omitempty" minimum:"0" maximum:"2592000"`
	ImageIDs       []string `json:"image_ids"`
	DeviceIDs      []string `json:"device_ids"`
	// Version counts saves; a save names the version it read and is refused when that is no longer the newest.
	Version int64 `json:"version"`
}
