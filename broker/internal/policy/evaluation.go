package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"keyward/broker/api"
)

// evaluation is what `facts` stands for while one rule is judged. It remembers what was asked for.
type evaluation struct {
	facts   collected
	used    []key
	missing bool
}

// value is a fact as the expression language has it. A missing fact is an error, and remembered: the language's ||
// would forget it.
func (e *evaluation) value(k key) (any, error) {
	if !slices.Contains(e.used, k) {
		e.used = append(e.used, k)
	}
	fact, why := e.facts.find(k)
	if why == "" {
		v, err := native(k.name, fact.Values)
		if err == nil {
			return v, nil
		}
		why = err.Error()
	}
	e.missing = true
	return nil, fmt.Errorf("%s: no data: %s", titleOf(k), why)
}

// native turns a fact's values into the language's type for them, as factType says.
func native(name api.FactName, values []string) (any, error) {
	info, _ := lookup(name)
	switch info.Type {
	case TypeNumberSet:
		ports := make([]int64, len(values))
		for i, v := range values {
			n, err := parsePort(v)
			if err != nil {
				return nil, err
			}
			ports[i] = int64(n)
		}
		return ports, nil
	case TypeSet:
		return append([]string{}, values...), nil
	}
	text, err := scalar(values)
	if err != nil {
		return nil, err
	}
	switch info.Type {
	case TypeEnum:
		if !slices.Contains(info.Values, text) {
			return nil, fmt.Errorf("%q is not one of %s", text, strings.Join(info.Values, ", "))
		}
		return text, nil
	case TypeNumber:
		if _, err := parseNumber(text); err != nil {
			return nil, err
		}
		return strconv.ParseFloat(strings.TrimSpace(text), 64)
	case TypeVersion:
		v, err := parseVersion(text)
		return versionValue{text: text, v: v}, err
	case TypePackageVersion:
		v, err := parsePackageVersion(text)
		return packageVersionValue{text: text, v: v}, err
	case TypeAddress:
		return parseIP(name, text)
	case TypeDate:
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, fmt.Errorf("%q is not an RFC 3339 time", text)
		}
		return t, nil
	case TypeDigest:
		return parseDigest(text)
	}
	return text, nil
}

// explain shows what the rule asked for, with the weakest of the grades and the earliest of the times.
func (e *evaluation) explain(f *api.Finding) {
	var shown, sources []string
	for _, k := range e.used {
		fact, why := e.facts.find(k)
		one := found(k, fact, why, api.RuleInformational)
		if _, err := native(k.name, fact.Values); why == "" && err != nil {
			one.Actual += " [no data: " + err.Error() + "]"
		}
		shown = append(shown, one.Title+" = "+one.Actual)
		if one.Source != "" && !slices.Contains(sources, one.Source) {
			sources = append(sources, one.Source)
		}
		if one.Grade != "" && (f.Grade == "" || strength(one.Grade) < strength(f.Grade)) {
			f.Grade = one.Grade
		}
		if one.At != nil && (f.At == nil || one.At.Before(*f.At)) {
			f.At = one.At
		}
	}
	f.Actual = strings.Join(shown, "; ")
	if f.Actual == "" {
		f.Actual = "no fact was asked for"
	}
	if len(sources) > 0 {
		f.Source = strings.Join(sources, "; ")
	}
}

// strength orders grades from weak to strong; one that nobody knows is the weakest.
func strength(g api.Grade) int {
	return slices.Index([]api.Grade{api.GradeSelfReported, api.GradeAPIConfirmed, api.GradeCloudSigned, api.GradeHardwareSigned, api.GradeBrokerObserved}, g)
}

// keyed is facts.NAME of a fact that has subjects: all it can do is to give the one of a subject. It is no map, because
// asking whether a key is there would make a fact that the machine keeps to itself look like an answer.
type keyed struct {
	opaque
	e    *evaluation
	name api.FactName
}

// Get implements traits.Indexer.
func (v keyed) Get(index ref.Val) ref.Val {
	subject, ok := index.(types.String)
	if !ok {
		return types.NewErr("a subject is text")
	}
	out, err := v.e.value(key{v.name, string(subject)})
	if err != nil {
		return types.WrapErr(err)
	}
	return adapt(out)
}

// Equal implements ref.Val.
func (v keyed) Equal(ref.Val) ref.Val { return types.NewErr("%s needs a subject in brackets", v.name) }

// Type implements ref.Val.
func (v keyed) Type() ref.Type { return keyedOf(types.DynType) }

// Value implements ref.Val.
func (v keyed) Value() any { return v }

var errNoConversion = errors.New("the value cannot be converted")
