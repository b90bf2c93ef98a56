package problem

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// docs/problems.md lists every slug that the broker's code can send, and nothing else.
func TestDocs_listEveryProblem(t *testing.T) {
	t.Parallel()
	slugs := map[string]string{} // to where it is made
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && strings.HasSuffix(d.Name(), "test") {
			return filepath.SkipDir // fakes for tests
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return nil // somebody's unfinished file; the compiler says so better
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 5 || !makesProblem(call.Fun, f.Name.Name) {
				return true
			}
			lit, ok := call.Args[1].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the slug of a problem is not written out, so the list cannot be checked", path)
				return true
			}
			slug, _ := strconv.Unquote(lit.Value)
			slugs[slug] = path
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../../docs/problems.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| [0-9]{3} \\| [^|]+ \\|$").FindAllStringSubmatch(string(doc), -1) {
		if listed[m[1]] {
			t.Errorf("docs/problems.md lists %s twice", m[1])
		}
		listed[m[1]] = true
	}
	if len(slugs) < 20 {
		t.Fatalf("only %d problems were found in the code", len(slugs))
	}
	for slug, path := range slugs {
		if !listed[slug] {
			t.Errorf("docs/problems.md lacks `%s`, which %s sends", slug, path)
		}
		if !regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`).MatchString(slug) {
			t.Errorf("%s: %q is no slug", path, slug)
		}
	}
	for slug := range listed {
		if slugs[slug] == "" {
			t.Errorf("docs/problems.md lists %s, which nothing sends", slug)
		}
	}
}

func makesProblem(f ast.Expr, pkg string) bool {
	switch f := f.(type) {
	case *ast.SelectorExpr:
		x, ok := f.X.(*ast.Ident)
		return ok && x.Name == "problem" && f.Sel.Name == "New"
	case *ast.Ident:
		return pkg == "problem" && f.Name == "New"
	}
	return false
}

func TestFrom_separatesTheCallersFaultsFromOurs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		status int
		slug   string
		known  bool
	}{
		"a problem":          {fmt.Errorf("doing: %w", NotFound("device")), 404, "not-found", true},
		"a row not there":    {fmt.Errorf("doing: %w", store.ErrNotFound), 404, "not-found", true},
		"a stale row":        {store.ErrStale, 409, "stale", true},
		"text with NUL":      {store.ErrInvalid, 422, "invalid", true},
		"too many at once":   {store.ErrBusy, 503, "unavailable", true},
		"a full disk":        {store.ErrFull, 507, "storage-full", false},
		"no root key":        {keystore.ErrUnreachable, 503, "root-key-unreachable", false},
		"a duplicate":        {store.ErrDuplicate, 500, "internal", false}, // a service that lets it through has a bug
		"anything else":      {errors.New("secret"), 500, "internal", false},
		"slow down":          {TooMany(time.Second), 429, "too-many-requests", true},
		"the clock is wrong": {ClockSkew(time.Unix(0, 0)), 422, "clock-skew", true},
	} {
		p, known := From(c.err)
		if p.Status != c.status || p.Slug() != c.slug || known != c.known || p.Title == "" || p.Hint == "" {
			t.Errorf("%s: %+v, known %v", name, p, known)
		}
		if strings.Contains(p.Error(), "secret") {
			t.Errorf("%s: the caller would read %q", name, p.Error())
		}
	}
	p := InvalidFields(map[string]string{"b": "too long", "a": "missing"})
	if want := "The request is not valid; a: missing; b: too long Correct the named fields."; p.Error() != want {
		t.Errorf("Error() = %q, want %q", p.Error(), want)
	}
	if !slices.Contains([]int{401}, Unauthenticated().Status) || Forbidden("users.write").Status != 403 {
		t.Error("wrong status of a refusal")
	}
}
