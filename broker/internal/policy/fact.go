package policy

import (
	"slices"

	"keyward/broker/api"
)

// Type is the data type of a fact. It decides which operators a rule on the fact may use.
type Type string

// The types of facts.
const (
	TypeString         Type = "string"
	TypeEnum           Type = "enum"
	TypeNumber         Type = "number"
	TypeNumberSet      Type = "number set"
	TypeSet            Type = "set"
	TypeVersion        Type = "version"
	TypePackageVersion Type = "package version"
	TypeAddress        Type = "IP address"
	TypeDate           Type = "date"
	TypeDigest         Type = "SHA-256"
	// TypeExpression is that of rules whose conditions are CEL expressions over all facts.
	TypeExpression Type = "expression"
)

// set says whether a fact of the type has any number of values, none included.
func (t Type) set() bool { return t == TypeNumberSet || t == TypeSet }

// SubjectInfo describes what a fact is of, where a machine has several of its kind.
type SubjectInfo struct {
	// Title is the name of the form's field: Package, Path, Script, Product.
	Title string `json:"title"`
	// Values are the possible subjects; nil when any text of the right form is one.
	Values  []string `json:"values,omitempty"`
	Example string   `json:"example"`
	Help    string   `json:"help"`
	// check says what is wrong with a subject.
	check func(string) error
}

// FactInfo describes a fact to whoever writes a rule: the console's form and the API's registry.
type FactInfo struct {
	Name api.FactName `json:"name"`
	// Title is the name shown to people.
	Title string `json:"title"`
	Type  Type   `json:"type"`
	// Subject is set when a rule must say of which of several it judges the fact.
	Subject *SubjectInfo `json:"subject,omitempty"`
	// Operators are those a condition on this fact may use, in the order to offer them.
	Operators []api.Operator `json:"operators"`
	// MultipleConditions says whether a rule on this fact may have more than one condition.
	MultipleConditions bool `json:"multiple_conditions"`
	// Values are the possible values of an enum, or the possible members of a set; nil when any are.
	Values  []string `json:"values,omitempty"`
	Example string   `json:"example"`
	Help    string   `json:"help"`
	// Observed is true when only the broker may supply the fact.
	Observed bool `json:"observed"`
}

// Facts lists every fact that rules can use, in the order to show them. The slice is the caller's.
func Facts() []FactInfo {
	facts := slices.Clone(registry)
	for i := range facts {
		facts[i].Operators = slices.Clone(facts[i].Operators)
		facts[i].Values = slices.Clone(facts[i].Values)
		if s := facts[i].Subject; s != nil {
			own := *s
			own.Values = slices.Clone(s.Values)
			facts[i].Subject = &own
		}
	}
	return facts
}

// places is where each fact stands in the registry: every appraisal looks up each fact several times.
var places = func() map[api.FactName]int {
	out := make(map[api.FactName]int, len(registry))
	for i, info := range registry {
		out[info.Name] = i
	}
	return out
}()

// lookup finds a fact's description.
func lookup(name api.FactName) (FactInfo, bool) {
	i, ok := places[name]
	if !ok {
		return FactInfo{}, false
	}
	return registry[i], true
}

// titleOf is a fact's title; a fact that this broker does not know is shown by its name.
func titleOf(k key) string {
	title := string(k.name)
	if info, ok := lookup(k.name); ok {
		title = info.Title
	}
	if k.subject != "" {
		title += ": " + k.subject
	}
	return title
}
