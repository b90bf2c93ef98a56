package policyfile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/policyset"
)

// Action is what a plan does with a policy.
type Action string

// The actions.
const (
	Create Action = "create"
	Change Action = "change"
	Delete Action = "delete"
)

// Step is one change of a plan.
type Step struct {
	Action Action `json:"action"`
	Policy string `json:"policy"` // its name
	// Diff lists the lines of the policy's file form that change, with "+ ", "- " or "  " before them.
	Diff []string `json:"diff"`
	// to is the policy as it is to be, with the ID that it has.
	to api.Policy
}

// Plan is what applying a file would change.
type Plan struct {
	Format  int       `json:"format"`
	Account string    `json:"account"`
	At      time.Time `json:"at"`
	// Base is a digest of the account's policies, images and devices that the plan was made for, and Target one of what they
	// would be: a saved plan counts only while both are the same.
	Base   string `json:"base"`
	Target string `json:"target"`
	Steps  []Step `json:"steps"`
	// Kept are the policies that the file does not have and that stay, since only Delete removes one.
	Kept []string `json:"kept"`
	// Preview says what the changes would do with today's machines; nil when nothing changes.
	Preview *api.PolicyPreview `json:"preview,omitempty"`
}

// Empty says that there is nothing to do.
func (p Plan) Empty() bool { return len(p.Steps) == 0 }

// Make plans a file. remove says that policies which the file does not have are to be deleted; the default policy stays
// in any case. The errors are the file's author's.
func Make(f File, current []api.Policy, n Names, remove bool) (Plan, error) {
	plan := Plan{Format: Format, Base: digest(current, n), Steps: []Step{}, Kept: []string{}}
	byName := map[string]api.Policy{}
	for _, p := range current {
		byName[fold(p.Name)] = p
	}
	targets, taken, err := resolve(f, byName, n)
	if err != nil {
		return plan, err
	}
	for _, to := range targets {
		step, err := stepOf(byName[fold(to.Name)], to, n)
		if err != nil {
			return plan, err
		}
		if step != nil {
			plan.Steps = append(plan.Steps, *step)
		}
		delete(byName, fold(to.Name))
	}
	for _, p := range current { // in the order of the account
		if _, left := byName[fold(p.Name)]; !left || p.Default {
			continue
		}
		if !remove {
			plan.Kept = append(plan.Kept, p.Name)
			continue
		}
		step, err := deletion(p, taken, n)
		if err != nil {
			return plan, err
		}
		plan.Steps = append(plan.Steps, step)
	}
	plan.Target = digest(plan.targets(), n)
	return plan, nil
}

// targets are the policies of the steps as they are to be.
func (p Plan) targets() []api.Policy {
	out := make([]api.Policy, 0, len(p.Steps))
	for _, s := range p.Steps {
		to := s.to
		to.Description = string(s.Action) + "\x00" + to.Description
		out = append(out, to)
	}
	return out
}

// resolve turns a file's policies into those of the interface, and says which devices the file names. Lists that it
// leaves out are those of now, without the devices that it gives to another policy.
func resolve(f File, byName map[string]api.Policy, n Names) (targets []api.Policy, taken map[string]bool, err error) {
	owner := map[string]string{}
	for _, p := range f.Policies {
		now := byName[fold(p.Name)]
		to := policyset.Stored(p.Policy)
		to.ID, to.Version, to.Default, to.ImageIDs, to.DeviceIDs = now.ID, now.Version, now.Default, now.ImageIDs, now.DeviceIDs
		if err := fits(p, now, to); err != nil {
			return nil, nil, err
		}
		images, err := n.Images.findAll("image", p.Images)
		if err != nil {
			return nil, nil, fmt.Errorf("policy %q: %w", p.Name, err)
		}
		devices, err := n.Devices.findAll("device", p.Devices)
		if err != nil {
			return nil, nil, fmt.Errorf("policy %q: %w", p.Name, err)
		}
		if p.Images != nil {
			to.ImageIDs = images
		}
		if p.Devices != nil {
			to.DeviceIDs = devices
		}
		for _, d := range devices {
			if other, twice := owner[d]; twice {
				return nil, nil, fmt.Errorf("device %q is in policy %q and in policy %q; a device is in exactly one", n.Devices.reference(d), other, to.Name)
			}
			owner[d] = to.Name
		}
		targets = append(targets, to)
	}
	taken = map[string]bool{}
	for d := range owner {
		taken[d] = true
	}
	for i, to := range targets {
		targets[i].DeviceIDs = slices.DeleteFunc(slices.Clone(to.DeviceIDs), func(d string) bool { return owner[d] != "" && owner[d] != to.Name })
	}
	return targets, taken, nil
}

// fits refuses a policy of a file that could not be saved over the one of now.
func fits(p Policy, now, to api.Policy) error {
	if p.Default != now.Default {
		return fmt.Errorf("policy %q: default is %v in the account; which policy is the default one cannot be changed", p.Name, now.Default)
	}
	if now.Default && p.Name != now.Name {
		return fmt.Errorf("policy %q: the default policy keeps its name %q", p.Name, now.Name)
	}
	if wrong := policy.Validate(to); len(wrong) > 0 {
		texts := make([]string, len(wrong))
		for i, w := range wrong {
			texts[i] = w.Error()
		}
		return fmt.Errorf("policy %q: %s", p.Name, strings.Join(texts, "; "))
	}
	return nil
}

func stepOf(now, to api.Policy, n Names) (*Step, error) {
	after, err := n.form(to).text()
	if err != nil {
		return nil, err
	}
	if now.ID == "" {
		return &Step{Action: Create, Policy: to.Name, Diff: marked("+ ", lines(after)), to: to}, nil
	}
	before, err := n.form(now).text()
	if err != nil {
		return nil, err
	}
	d := diff(before, after)
	if d == nil {
		return nil, nil
	}
	return &Step{Action: Change, Policy: now.Name, Diff: d, to: to}, nil
}

func deletion(p api.Policy, taken map[string]bool, n Names) (Step, error) {
	var left []string
	for _, d := range p.DeviceIDs {
		if !taken[d] {
			left = append(left, n.Devices.reference(d))
		}
	}
	if len(left) > 0 {
		slices.Sort(left)
		return Step{}, fmt.Errorf("policy %q is not in the file and still holds %s; name them in another policy of the file, or keep the policy",
			p.Name, strings.Join(left, ", "))
	}
	text, err := n.form(p).text()
	return Step{Action: Delete, Policy: p.Name, Diff: marked("- ", lines(text)), to: p}, err
}

// digest is a digest of policies with their versions and members, and of what the names of a file mean.
func digest(policies []api.Policy, n Names) string {
	sorted := make([]api.Policy, len(policies))
	for i, p := range policies {
		p.ImageIDs, p.DeviceIDs = slices.Sorted(slices.Values(p.ImageIDs)), slices.Sorted(slices.Values(p.DeviceIDs))
		sorted[i] = p
	}
	slices.SortFunc(sorted, func(a, b api.Policy) int { return strings.Compare(a.ID+"\x00"+a.Name, b.ID+"\x00"+b.Name) })
	b, err := json.Marshal(struct {
		Policies []api.Policy
		Names    Names
	}{sorted, n})
	if err != nil {
		panic("policyfile: a policy cannot be written as JSON: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
