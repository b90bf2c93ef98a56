package policy

import (
	"fmt"
	"reflect"
	"regexp"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	celop "cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"keyward/broker/api"
)

const factsTypeName = "keyward.Facts"

// environment is the language of expressions: CEL's own pure functions, addresses, versions, the facts of the registry
// by their types, and the time of judgement. The macro has() is left out: a missing fact is never an answer.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	subject := types.NewTypeParamType("V")
	return cel.NewEnv(
		cel.ClearMacros(), cel.Macros(cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro, cel.MapMacro, cel.FilterMacro),
		cel.ParserExpressionSizeLimit(maxValueLength), cel.ParserRecursionLimit(maxExpressionDepth), cel.ExpressionNodeLimit(maxExpressionNodes),
		cel.RegexProgramSizeLimit(maxRegexProgram), cel.DefaultUTCTimeZone(true), ext.Network(),
		cel.ASTValidators(cel.ValidateComprehensionNestingLimit(maxExpressionLoops), cel.ValidateTimestampLiterals(),
			cel.ValidateDurationLiterals(), literals{}),
		versions("version", versionType, func(s string) (ref.Val, error) {
			v, err := parseVersion(s)
			return versionValue{text: s, v: v}, err
		}),
		versions("package_version", packageVersionType, func(s string) (ref.Val, error) {
			v, err := parsePackageVersion(s)
			return packageVersionValue{text: s, v: v}, err
		}),
		cel.Function(celop.Index, cel.Overload("fact_of_subject", []*types.Type{keyedOf(subject), types.StringType}, subject)),
		cel.Variable("facts", types.NewObjectType(factsTypeName)), cel.Variable("now", types.TimestampType),
		func(e *cel.Env) (*cel.Env, error) {
			return cel.CustomTypeProvider(factsProvider{e.CELTypeProvider()})(e)
		},
	)
})

// versions declares a type of versions: the function that reads one, and the comparisons of two.
func versions(name string, t *types.Type, parse func(string) (ref.Val, error)) cel.EnvOption {
	return func(e *cel.Env) (*cel.Env, error) {
		options := []cel.EnvOption{cel.Function(name, cel.Overload("string_to_"+name, []*types.Type{types.StringType}, t,
			cel.UnaryBinding(func(v ref.Val) ref.Val {
				out, err := parse(string(v.(types.String)))
				if err != nil {
					return types.WrapErr(err)
				}
				return out
			})))}
		for _, op := range []string{celop.Less, celop.LessEquals, celop.Greater, celop.GreaterEquals} {
			options = append(options, cel.Function(op, cel.Overload(op+name, []*types.Type{t, t}, types.BoolType)))
		}
		var err error
		for _, o := range options {
			if e, err = o(e); err != nil {
				return nil, err
			}
		}
		return e, nil
	}
}

// factType is the language's type of a fact.
func factType(info FactInfo) *types.Type {
	t := types.StringType
	switch info.Type {
	case TypeNumber:
		t = types.DoubleType
	case TypeNumberSet:
		t = types.NewListType(types.IntType)
	case TypeSet:
		t = types.NewListType(types.StringType)
	case TypeVersion:
		t = versionType
	case TypePackageVersion:
		t = packageVersionType
	case TypeAddress:
		t = ext.IPType
	case TypeDate:
		t = types.TimestampType
	}
	if info.Subject != nil {
		t = keyedOf(t)
	}
	return t
}

func keyedOf(t *types.Type) *types.Type { return types.NewOpaqueType("facts by subject", t) }

// factsProvider adds the type of `facts`, whose fields are the facts of the registry.
type factsProvider struct{ types.Provider }

// FindStructType implements types.Provider.
func (p factsProvider) FindStructType(name string) (*types.Type, bool) {
	if name == factsTypeName {
		return types.NewTypeTypeWithParam(types.NewObjectType(factsTypeName)), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p factsProvider) FindStructFieldNames(name string) ([]string, bool) {
	if name != factsTypeName {
		return p.Provider.FindStructFieldNames(name)
	}
	var names []string
	for _, info := range registry {
		if info.Type != TypeExpression {
			names = append(names, string(info.Name))
		}
	}
	return names, true
}

// FindStructFieldType implements types.Provider.
func (p factsProvider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if name != factsTypeName {
		return p.Provider.FindStructFieldType(name, field)
	}
	info, ok := lookup(api.FactName(field))
	if !ok || info.Type == TypeExpression {
		return nil, false
	}
	return &types.FieldType{Type: factType(info), IsSet: func(any) bool { return true }, GetFrom: func(target any) (any, error) {
		e := target.(*evaluation)
		if info.Subject != nil {
			return keyed{e: e, name: info.Name}, nil
		}
		return e.value(key{name: info.Name})
	}}, true
}

// NewValue implements types.Provider: nobody makes facts inside an expression.
func (p factsProvider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if name == factsTypeName {
		return types.NewErr("facts cannot be made")
	}
	return p.Provider.NewValue(name, fields)
}

// usesEvidence says whether an expression depends on anything at all.
func usesEvidence(tree *cel.Ast) bool {
	return len(ast.MatchDescendants(ast.NavigateAST(tree.NativeRep()), func(e ast.NavigableExpr) bool {
		return e.Kind() == ast.IdentKind && (e.AsIdent() == "facts" || e.AsIdent() == "now")
	})) > 0
}

// literals refuses texts that are written in the expression and can never be read: versions, addresses and subjects.
type literals struct{}

// Name implements cel.ASTValidator.
func (literals) Name() string { return "keyward.literals" }

// Validate implements cel.ASTValidator.
func (literals) Validate(_ *cel.Env, _ cel.ValidatorConfig, tree *ast.AST, issues *cel.Issues) {
	for _, e := range ast.MatchDescendants(ast.NavigateAST(tree), ast.KindMatcher(ast.CallKind)) {
		call := e.AsCall()
		args := call.Args()
		if len(args) == 0 || args[len(args)-1].Kind() != ast.LiteralKind {
			continue
		}
		literal := args[len(args)-1]
		text, ok := literal.AsLiteral().(types.String)
		if !ok {
			continue
		}
		if err := checkLiteral(call.FunctionName(), args[0], string(text)); err != nil {
			issues.ReportErrorAtID(literal.ID(), "%s", err.Error())
		}
	}
}

func checkLiteral(function string, first ast.Expr, text string) error {
	var err error
	switch function {
	case "matches":
		if _, wrong := regexp.Compile(text); wrong != nil {
			err = fmt.Errorf("not a regular expression (RE2 syntax): %w", wrong)
		}
	case "version":
		_, err = parseVersion(text)
	case "package_version":
		_, err = parsePackageVersion(text)
	case "cidr":
		_, err = parseAddresses("", text)
	case "ip":
		_, err = parseIP("", text)
	case celop.Index:
		if first.Kind() == ast.SelectKind {
			if info, ok := lookup(api.FactName(first.AsSelect().FieldName())); ok && info.Subject != nil {
				err = checkSubject(info, text)
			}
		}
	}
	return err
}

// adapt makes a value of the language from one of Go's.
func adapt(v any) ref.Val {
	if own, ok := v.(ref.Val); ok {
		return own
	}
	env, err := environment()
	if err != nil {
		return types.WrapErr(err)
	}
	if t, ok := v.(time.Time); ok {
		return types.Timestamp{Time: t}
	}
	return env.CELTypeAdapter().NativeToValue(v)
}

// opaque is what versions and keyed facts have in common: they convert to nothing.
type opaque struct{}

// ConvertToNative implements ref.Val.
func (opaque) ConvertToNative(reflect.Type) (any, error) { return nil, errNoConversion }

// ConvertToType implements ref.Val.
func (opaque) ConvertToType(ref.Type) ref.Val { return types.WrapErr(errNoConversion) }
