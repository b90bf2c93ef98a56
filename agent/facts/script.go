package facts

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"keyward/broker/api"
)

// Script is a program of the machine's administrator whose output is a fact.
type Script struct {
	// Name is the fact's subject.
	Name string
	// Path of a program that belongs to root and that nobody else may change.
	Path string
	// Number says that it prints a number; otherwise what it prints is text.
	Number  bool
	Timeout time.Duration
}

// maxResult is the longest result of a script, bytes.
const maxResult = 4096

var numberResult = regexp.MustCompile(`^-?[0-9]{1,40}(\.[0-9]{1,40})?$`)

func (c Script) facts(ctx context.Context, s Sources) []api.Fact {
	name := api.FactScriptText
	if c.Number {
		name = api.FactScriptNumber
	}
	out, err := output(ctx, c.Timeout, maxResult, s.path(c.Path))
	var values []string
	if err == nil {
		values, err = c.result(string(out))
	}
	return []api.Fact{s.fact(ctx, name, c.Name, "script "+c.Path, values, err)}
}

// result reads what a script printed, without the white space around it.
func (c Script) result(out string) ([]string, error) {
	out = strings.TrimSpace(out)
	switch {
	case out == "":
		return nil, errors.New("the script printed nothing")
	case !utf8.ValidString(out) || strings.ContainsFunc(out, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		return nil, errors.New("the script printed something that is no plain text")
	case c.Number && !numberResult.MatchString(out):
		return nil, fmt.Errorf("the script printed %.60q, which is no number such as 17 or -2.5", out)
	}
	return []string{out}, nil
}
