package policyfile

import (
	"fmt"
	"slices"
	"strings"

	"keyward/broker/api"
)

// Names are the images and devices of an account, by which files refer to them.
type Names struct{ Images, Devices Register }

// Register names things of one kind by ID. Names need not be unique.
type Register map[string]string

// reference is how a file names a thing: by its name, and by its ID too where others have the name or it could be taken
// for another's.
func (r Register) reference(id string) string {
	name := r[id]
	same := 0
	for _, n := range r {
		if n == name {
			same++
		}
	}
	_, inside := cutID(name)
	if same == 1 && inside == "" && name != "" && strings.TrimSpace(name) == name {
		return name
	}
	return name + " [id " + id + "]"
}

// cutID splits "name [id X]".
func cutID(text string) (name, id string) {
	rest, ok := strings.CutSuffix(text, "]")
	i := strings.LastIndex(rest, " [id ")
	if !ok || i < 0 {
		return text, ""
	}
	return rest[:i], rest[i+len(" [id "):]
}

// find is the ID of what a file refers to; kind is a noun for people.
func (r Register) find(kind, text string) (string, error) {
	if name, id := cutID(text); id != "" {
		if have, ok := r[id]; !ok {
			return "", fmt.Errorf("there is no %s with ID %q", kind, id)
		} else if have != name {
			return "", fmt.Errorf("the %s with ID %q is named %q, not %q", kind, id, have, name)
		}
		return id, nil
	}
	var found []string
	for id, name := range r {
		if name == text {
			found = append(found, id)
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("there is no %s named %q", kind, text)
	}
	return "", fmt.Errorf("%d %ss are named %q: write %q for the one that is meant", len(found), kind, text, text+" [id "+found[0]+"]")
}

func (r Register) references(ids []string) *[]string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		if _, known := r[id]; known {
			out = append(out, r.reference(id))
		}
	}
	slices.Sort(out)
	return &out
}

// findAll resolves a list; nil stays nil, which leaves members as they are.
func (r Register) findAll(kind string, list *[]string) ([]string, error) {
	if list == nil {
		return nil, nil
	}
	out := []string{}
	for _, text := range *list {
		id, err := r.find(kind, text)
		if err != nil {
			return nil, err
		}
		if slices.Contains(out, id) {
			return nil, fmt.Errorf("%s %q is listed twice", kind, text)
		}
		out = append(out, id)
	}
	return out, nil
}

// form is a policy as a file has it.
func (n Names) form(p api.Policy) Policy {
	out := Policy{Policy: p}
	out.ID, out.Version, out.ImageIDs, out.DeviceIDs = "", 0, nil, nil
	if !p.Default {
		out.Images, out.Devices = n.Images.references(p.ImageIDs), n.Devices.references(p.DeviceIDs)
	}
	return out
}

// Export is the file of policies.
func Export(account string, policies []api.Policy, n Names) File {
	f := File{Format: Format, Account: account, Policies: make([]Policy, 0, len(policies))}
	for _, p := range policies {
		f.Policies = append(f.Policies, n.form(p))
	}
	return f
}
