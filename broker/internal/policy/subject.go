package policy

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"keyward/broker/api"
)

// key names one fact: what it is, and of what, where a machine has several of its kind.
type key struct {
	name    api.FactName
	subject string
}

func keyOf(f api.Fact) key { return key{f.Name, f.Subject} }

// maxSubject is the longest subject in bytes: a path as long as Linux takes it.
const maxSubject = 4096

var (
	scanners = []string{api.ProductClamAV, api.ProductDefender, api.ProductDeepSecurity, api.ProductServerProtect}
	pcrs     = []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"}
	products = append(slices.Clone(scanners), api.ProductWazuh, api.ProductOSSEC)

	packageSubject = &SubjectInfo{Title: "Package", Example: "openssl", check: checkPackage,
		Help: "The package's name. Machines report the packages that facts.packages of their agent's configuration names."}
	pcrSubject = &SubjectInfo{Title: "PCR", Example: "7", Values: pcrs, check: oneOf(pcrs),
		Help: "The number of the register: 0 to 3 hold the firmware and its settings, 4 and 5 the boot loader, 7 secure boot, 8 to 15 what the operating system measures."}
	pathSubject = &SubjectInfo{Title: "Path", Example: "/etc/ssh/sshd_config", check: checkPath,
		Help: "The file's absolute path. Machines report the files that facts.files of their agent's configuration names."}
	scriptSubject = &SubjectInfo{Title: "Script", Example: "baseline", check: checkScript,
		Help: "The script's name in facts.scripts of the agent's configuration, which also says whether it prints a text or a number."}
	productSubject = &SubjectInfo{Title: "Product", Example: api.ProductWazuh, Values: products, check: oneOf(products), Help: "Which product."}
	scannerSubject = &SubjectInfo{Title: "Product", Example: api.ProductClamAV, Values: scanners, check: oneOf(scanners), Help: "Which virus scanner."}
)

// The names that package managers allow (deb-control(5), rpm), with an architecture as dpkg writes it.
var packageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}(:[a-z0-9-]{1,32})?$`)

// scriptName as the agent's configuration takes it.
var scriptName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

func checkPackage(s string) error {
	if !packageName.MatchString(s) {
		return fmt.Errorf("%q is not a package's name, for example openssl", s)
	}
	return nil
}

func checkPath(s string) error {
	if len(s) > maxSubject || strings.ContainsRune(s, 0) || !path.IsAbs(s) || path.Clean(s) != s {
		return fmt.Errorf("%q is not an absolute path without . and .., for example /etc/ssh/sshd_config", s)
	}
	return nil
}

func checkScript(s string) error {
	if !scriptName.MatchString(s) {
		return fmt.Errorf("%q is not a script's name: lower-case letters, digits, - and _", s)
	}
	return nil
}

func oneOf(values []string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, s) {
			return fmt.Errorf("%q is not one of %s", s, strings.Join(values, ", "))
		}
		return nil
	}
}

// Accepts says whether a subject is of the right form.
func (s SubjectInfo) Accepts(subject string) bool { return s.check(subject) == nil }

// checkSubject says what is wrong with the subject of a rule on a fact.
func checkSubject(info FactInfo, subject string) error {
	switch {
	case info.Subject == nil && subject != "":
		return fmt.Errorf("%s is one for the whole machine: leave the subject out", info.Title)
	case info.Subject == nil:
		return nil
	case strings.TrimSpace(subject) == "":
		return errors.New("say of which " + strings.ToLower(info.Subject.Title) + ", for example " + info.Subject.Example)
	}
	return info.Subject.check(subject)
}
