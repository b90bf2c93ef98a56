package policy

import (
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

var (
	versionType        = types.NewObjectType("keyward.version", traits.ComparerType)
	packageVersionType = types.NewObjectType("keyward.package_version", traits.ComparerType)
)

// versionValue is a version in an expression, compared number by number.
type versionValue struct {
	opaque
	text string
	v    version
}

// Compare implements traits.Comparer.
func (a versionValue) Compare(other ref.Val) ref.Val {
	b, ok := other.(versionValue)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Int(a.v.compare(b.v))
}

// Equal implements ref.Val.
func (a versionValue) Equal(other ref.Val) ref.Val {
	b, ok := other.(versionValue)
	return types.Bool(ok && a.v.compare(b.v) == 0)
}

// Type implements ref.Val.
func (versionValue) Type() ref.Type { return versionType }

// Value implements ref.Val.
func (a versionValue) Value() any { return a.text }

// packageVersionValue is a package's version in an expression, compared as the package manager does. Where one side names
// no epoch, epochs are left out.
type packageVersionValue struct {
	opaque
	text string
	v    packageVersion
}

func (a packageVersionValue) compare(b packageVersionValue) int {
	if !a.v.hasEpoch || !b.v.hasEpoch {
		a.v.epoch, b.v.epoch = "", ""
	}
	return a.v.compare(b.v)
}

// Compare implements traits.Comparer.
func (a packageVersionValue) Compare(other ref.Val) ref.Val {
	b, ok := other.(packageVersionValue)
	if !ok {
		return types.MaybeNoSuchOverloadErr(other)
	}
	return types.Int(a.compare(b))
}

// Equal implements ref.Val.
func (a packageVersionValue) Equal(other ref.Val) ref.Val {
	b, ok := other.(packageVersionValue)
	return types.Bool(ok && a.compare(b) == 0)
}

// Type implements ref.Val.
func (packageVersionValue) Type() ref.Type { return packageVersionType }

// Value implements ref.Val.
func (a packageVersionValue) Value() any { return a.text }
