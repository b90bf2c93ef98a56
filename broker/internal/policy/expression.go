package policy

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"

	"keyward/broker/api"
)

const expressionHelp = "A CEL expression that is true or false. facts.NAME is a fact by the name that the interface uses, " +
	"facts.NAME[\"SUBJECT\"] one of several, now the time of judgement. Versions are written version(\"6.1\") and package_version(\"3.0.11\"), " +
	"addresses ip(\"192.0.2.1\") and cidr(\"192.0.2.0/24\"). A fact that is asked for and missing fails the rule."

// Limits of an expression. What a comprehension may cost is far above what a rule needs, and far below what would be
// felt: some hundred thousand steps take a few milliseconds.
const (
	maxExpressionDepth = 40
	maxExpressionNodes = 4000
	maxExpressionLoops = 2 // comprehensions inside one another
	maxExpressionCost  = 200_000
	maxRegexProgram    = 1000
)

// compiled keeps programs, which are costly to make and safe to share. Two brokers that compile the same text get the
// same program, so this changes no verdict.
var compiled = struct {
	sync.Mutex
	programs map[string]cel.Program
}{programs: map[string]cel.Program{}}

const maxCompiled = 1024

// expressionOf compiles an expression; the error says at which line and column what is wrong.
func expressionOf(text string) (cel.Program, error) {
	compiled.Lock()
	program, ok := compiled.programs[text]
	compiled.Unlock()
	if ok {
		return program, nil
	}
	program, err := compileExpression(text)
	if err != nil {
		return nil, err
	}
	compiled.Lock()
	defer compiled.Unlock()
	if len(compiled.programs) >= maxCompiled {
		clear(compiled.programs)
	}
	compiled.programs[text] = program
	return program, nil
}

func compileExpression(text string) (cel.Program, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("prepare the expression language: %w", err)
	}
	tree, issues := env.Compile(text)
	if issues != nil && len(issues.Errors()) > 0 {
		return nil, positions(issues)
	}
	if !tree.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("the expression gives a value of type %s: it must be true or false", tree.OutputType())
	}
	if !usesEvidence(tree) {
		return nil, errors.New("the expression asks for no fact, so it always gives the same")
	}
	program, err := env.Program(tree, cel.CostLimit(maxExpressionCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fmt.Errorf("the expression cannot be evaluated: %w", err)
	}
	return program, nil
}

// positions joins the compiler's complaints, at most three, each with its place.
func positions(issues *cel.Issues) error {
	var lines []string
	for _, e := range issues.Errors()[:min(3, len(issues.Errors()))] {
		lines = append(lines, fmt.Sprintf("line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, plainMessage(e.Message)))
	}
	return errors.New(strings.Join(lines, "; "))
}

// plainMessage takes out what only the compiler's authors understand.
func plainMessage(s string) string {
	s = strings.TrimPrefix(s, "Syntax error: ")
	s = strings.ReplaceAll(s, " (in container '')", "")
	return strings.ReplaceAll(s, factsTypeName, "facts")
}

// judgeExpression applies an expression rule. It passes when the conditions hold, none of them failed to give an answer,
// and no fact that was asked for is missing, whatever the rest of the expression made of that.
func judgeExpression(r api.Rule, facts collected, now time.Time) (api.Finding, []key) {
	finding := api.Finding{Fact: r.Fact, Title: titleOf(key{name: r.Fact}), Condition: formula(r), Status: api.RuleFailed, Source: "expression"}
	if refuse(&finding, r) {
		finding.Actual = "no data: the expression was not evaluated"
		return finding, nil
	}
	e := &evaluation{facts: facts}
	holding := 0
	var failed error
	for _, c := range r.Conditions {
		holds, err := e.evaluate(c.Value, now)
		if err != nil && failed == nil {
			failed = err
		}
		if holds {
			holding++
		}
	}
	e.explain(&finding)
	if failed != nil && !e.missing {
		finding.Actual += " [no data: " + failed.Error() + "]"
	}
	complete := failed == nil && !e.missing
	if complete && (r.Match == api.MatchAny && holding > 0 || holding == len(r.Conditions)) {
		finding.Status = api.RulePassed
	}
	return finding, e.used
}

// evaluate says whether an expression holds.
func (e *evaluation) evaluate(text string, now time.Time) (bool, error) {
	program, err := expressionOf(text)
	if err != nil {
		return false, err
	}
	out, _, err := program.Eval(map[string]any{"facts": e, "now": now.UTC()})
	if err != nil {
		return false, errors.New(plainMessage(err.Error()))
	}
	return out == types.True, nil
}
