package unlock

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// instances lists the account's machines.
func (a *account) instances() []api.Instance {
	a.t.Helper()
	var list struct{ Instances []api.Instance }
	if err := a.Do(a.t.Context(), "GET", "/api/v1/instances", nil, &list); err != nil {
		a.t.Fatal(err)
	}
	return list.Instances
}

// L-06: an agent that starts from a template's disk enrols by itself, with a key of its own. One that starts from a copy
// of an enrolled machine's disk drops that machine's key; where it claims to be the same machine, a person decides.
func TestTemplate_machinesEnrolThemselvesAtFirstBoot(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		a := newAccount(t, s)
		dir := filepath.Join(tempDir(t), "a")
		agent, err := s.broker.Enrol(t.Context(), lab.AgentOptions{Bin: program("keyward-agent"), Dir: dir, Token: a.token(),
			AccountID: a.setup.AccountID, Flags: []string{"--template"}})
		if err != nil {
			t.Fatal(err)
		}
		m := &machine{account: a, Agent: agent, dir: dir}
		state := filepath.Join(dir, "state")
		if _, err := os.Stat(filepath.Join(state, "machine.key")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the template holds a machine's key: %v", err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.clean)
		up := func() (status lab.AgentStatus) {
			within(t, patience, func() (err error) {
				if status, err = m.Status(t.Context()); err == nil && !status.Broker.Connected {
					err = errors.New("not connected yet")
				}
				return err
			})
			return status
		}
		first := up()
		list := a.instances()
		if len(list) != 1 || !list[0].FromImage || list[0].ID != first.InstanceID {
			t.Fatalf("machines after the first boot: %+v", list)
		}
		if out, err := m.Run(t.Context(), "renew"); err != nil || !strings.Contains(out, first.InstanceID) {
			t.Fatalf("renew: %v: %s", err, out)
		}
		key, err := os.ReadFile(filepath.Join(state, "machine.key"))
		if err != nil {
			t.Fatal(err)
		}

		// The disk wakes up as a copy: the enrolment names another machine.
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(state, "enrolment.json")
		var enrolment map[string]any
		raw, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(raw, &enrolment)
		}
		if err != nil {
			t.Fatal(err)
		}
		enrolment["machine"] = "another machine"
		raw, err = json.Marshal(enrolment)
		if err == nil {
			err = os.WriteFile(file, raw, 0o600)
		}
		if err == nil {
			err = m.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error {
			if i := a.instances()[0]; i.KeyConflict == nil {
				return errors.New("no conflict shown yet")
			}
			return nil
		})
		now, err := os.ReadFile(filepath.Join(state, "machine.key"))
		if err != nil || string(now) == string(key) {
			t.Fatalf("the copy goes on with the other machine's key (%v)", err)
		}
		if err := a.Do(t.Context(), "POST", "/api/v1/instances/"+first.InstanceID+"/accept-key", api.Decision{Reason: "disk replaced"}, nil); err != nil {
			t.Fatal(err)
		}
		if again := up(); again.InstanceID != first.InstanceID {
			t.Errorf("the accepted machine is instance %s, was %s", again.InstanceID, first.InstanceID)
		}
		for _, event := range []string{"instance.enrolled", "instance.enrolled-again", "instance.certificate-renewed", "instance.key-conflict", "image.certificate-issued"} {
			if a.logged("agent", event) != 1 {
				t.Errorf("%s is in the log %d times", event, a.logged("agent", event))
			}
		}
	})
}
