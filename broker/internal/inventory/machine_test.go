package inventory

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"keyward/broker/api"
)

var updateMachine = flag.Bool("update-machine", false, "write the machines' tables anew")

var shortStatus = map[string]api.DeviceStatus{"new": "", "gone": "", "NotC": api.DeviceNotConfigured, "Conf": api.DeviceConfigured, "Pend": api.DeviceEncryptionPending,
	"Encg": api.DeviceEncrypting, "Err": api.DeviceEncryptionError, "Encd": api.DeviceEncrypted, "Use": api.DeviceInUse, "Undt": api.DeviceUndetected,
	"Miss": api.DeviceMissing}

// The specifications are the machines of features.md as people read them: every event, in its circumstances, in every
// state. A dot is a refusal. A lost device has a former status, written behind a slash: in a column head it is given, in a
// cell it is wanted.
const deviceSpecification = `
event                               new  NotC Conf Pend Encg Err  Encd Use  Undt/NotC Undt/Conf Undt/Pend Undt/Encg Undt/Err  Undt/Encd Undt/
published notroot                   NotC NotC Conf Pend Encg Err  Encd Use  NotC      Conf      Pend      Encg      Err       Encd      .
published                           .    NotC Conf Pend Encg Err  Encd Use  NotC      Conf      Pend      Encg      Err       Encd      .
vanished                            .    Undt/NotC Undt/Conf Undt/Pend Undt/Encg Undt/Err Undt/Encd Use Undt/NotC Undt/Conf Undt/Pend Undt/Encg Undt/Err Undt/Encd Undt/
configured complete                 .    Conf Conf .    .    Conf Encd .    .         .         .         .         .         .         .
configured                          .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
retry-save complete                 .    .    .    .    .    Conf .    .    .         .         .         .         .         .         .
retry-save                          .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
encrypt-asked complete notroot single empty   . . Pend . . . . . . . . . . . .
encrypt-asked complete notroot single destroy . . Pend . . . . . . . . . . . .
encrypt-asked complete notroot single         . . .    . . . . . . . . . . . .
encrypt-asked complete notroot empty          . . .    . . . . . . . . . . . .
encrypt-asked complete single empty           . . .    . . . . . . . . . . . .
encrypt-asked notroot single empty            . . .    . . . . . . . . . . . .
agent-took-job                      .    .    .    Encg Encg .    .    .    .         .         .         .         .         .         .
key-imported complete notroot single . . Encd . . . . . . . . . . . .
key-imported complete notroot       . . . . . . . . . . . . . . .
key-imported complete single        . . . . . . . . . . . . . . .
key-imported notroot single         . . . . . . . . . . . . . . .
encrypted                           .    .    .    .    Encd .    .    .    .         .         .         Undt/Encd .         .         .
encryption-failed                   .    .    .    Err  Err  .    .    .    .         .         Undt/Err  Undt/Err  .         .         .
wait-over                           .    .    .    Conf .    .    .    .    .         .         Undt/Conf .         .         .         .
cancel                              .    .    .    Conf .    .    .    .    .         .         Undt/Conf .         .         .         .
mounted                             .    .    .    .    .    .    Use  Use  .         .         .         .         .         Use       .
unmounted lastmount                 .    .    .    .    .    .    Encd Encd Undt/NotC Undt/Conf Undt/Pend Undt/Encg Undt/Err  Undt/Encd Undt/
unmounted                           .    .    .    .    .    .    Encd Use  Undt/NotC Undt/Conf Undt/Pend Undt/Encg Undt/Err  Undt/Encd Undt/
unconfigure single keyin destroy    .    .    NotC .    .    NotC NotC .    .         .         .         .         .         .         .
unconfigure single keyin            .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
unconfigure single destroy          .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
unconfigure keyin destroy           .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
set-unconfigured keyin destroy      .    NotC NotC .    .    NotC NotC .    Undt/NotC Undt/NotC Undt/NotC Undt/NotC Undt/NotC Undt/NotC Undt/NotC
set-unconfigured keyin              .    NotC .    .    .    .    .    .    .         .         .         .         .         .         .
set-unconfigured destroy            .    NotC .    .    .    .    .    .    .         .         .         .         .         .         .
copy-configuration single sourcehaskey . Encd .    .    .    .    .    .    .         .         .         .         .         .         .
copy-configuration single           .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
copy-configuration sourcehaskey     .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
rotate-key single norotation        .    .    .    .    .    .    Encd Use  .         .         .         .         .         .         .
rotate-key single                   .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
rotate-key norotation               .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
cancel-rotation rotation            .    .    .    .    .    .    Encd Use  Undt/NotC Undt/Conf Undt/Pend Undt/Encg Undt/Err  Undt/Encd Undt/
cancel-rotation                     .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
delete single keyin nokey           .    .    .    .    .    .    .    .    gone      gone      gone      gone      gone      gone      gone
delete single keyin destroy         .    .    .    .    .    .    .    .    gone      gone      gone      gone      gone      gone      gone
delete single keyin                 .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
delete single destroy               .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
delete keyin destroy                .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
created members complete            .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
member-vanished                     .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
members-back allmembers             .    .    .    .    .    .    .    .    .         .         .         .         .         .         .
`

const raidSpecification = `
event                               new  NotC Conf Pend Encg Err  Encd Use  Miss/NotC Miss/Conf Miss/Pend Miss/Encg Miss/Err  Miss/Encd
created members complete            Conf .    .    .    .    .    .    .    .         .         .         .         .         .
created complete                    .    .    .    .    .    .    .    .    .         .         .         .         .         .
created members                     .    .    .    .    .    .    .    .    .         .         .         .         .         .
member-vanished                     .    Miss/NotC Miss/Conf Miss/Pend Miss/Encg Miss/Err Miss/Encd Use Miss/NotC Miss/Conf Miss/Pend Miss/Encg Miss/Err Miss/Encd
members-back allmembers             .    .    .    .    .    .    .    .    NotC      Conf      Pend      Encg      Err       Encd
members-back                        .    .    .    .    .    .    .    .    Miss/NotC Miss/Conf Miss/Pend Miss/Encg Miss/Err  Miss/Encd
configured complete                 .    Conf Conf .    .    Conf .    .    .         .         .         .         .         .
configured                          .    .    .    .    .    .    .    .    .         .         .         .         .         .
retry-save complete                 .    .    .    .    .    Conf .    .    .         .         .         .         .         .
encrypt-asked complete notroot empty   . . Pend . . . . . . . . . . .
encrypt-asked complete notroot destroy . . Pend . . . . . . . . . . .
encrypt-asked complete notroot      .    .    .    .    .    .    .    .    .         .         .         .         .         .
encrypt-asked complete empty        .    .    .    .    .    .    .    .    .         .         .         .         .         .
encrypt-asked notroot empty         .    .    .    .    .    .    .    .    .         .         .         .         .         .
agent-took-job                      .    .    .    Encg Encg .    .    .    .         .         .         .         .         .
encrypted allmembers                .    .    .    .    Encd .    .    .    .         .         .         Miss/Encd .         .
encrypted                           .    .    .    .    Encg .    .    .    .         .         .         Miss/Encg .         .
encryption-failed                   .    .    .    Err  Err  .    .    .    .         .         Miss/Err  Miss/Err  .         .
wait-over                           .    .    .    Conf .    .    .    .    .         .         Miss/Conf .         .         .
cancel                              .    .    .    Conf .    .    .    .    .         .         Miss/Conf .         .         .
mounted                             .    .    .    .    .    .    Use  Use  .         .         .         .         .         Use
unmounted lastmount                 .    .    .    .    .    .    Encd Encd Miss/NotC Miss/Conf Miss/Pend Miss/Encg Miss/Err  Miss/Encd
unconfigure keyin destroy           .    .    NotC .    .    NotC NotC .    .         .         .         .         .         .
unconfigure keyin                   .    .    .    .    .    .    .    .    .         .         .         .         .         .
unconfigure destroy                 .    .    .    .    .    .    .    .    .         .         .         .         .         .
delete keyin nokey                  .    gone .    .    .    .    .    .    gone      gone      gone      gone      gone      gone
delete keyin destroy                .    gone .    .    .    .    .    .    gone      gone      gone      gone      gone      gone
delete keyin                        .    .    .    .    .    .    .    .    .         .         .         .         .         .
delete destroy                      .    .    .    .    .    .    .    .    .         .         .         .         .         .
published notroot                   .    .    .    .    .    .    .    .    .         .         .         .         .         .
vanished                            .    .    .    .    .    .    .    .    .         .         .         .         .         .
copy-configuration single sourcehaskey . .    .    .    .    .    .    .    .         .         .         .         .         .
`

func stateOf(t *testing.T, text string) State {
	t.Helper()
	status, former, _ := strings.Cut(text, "/")
	s, ok := shortStatus[status]
	f, okFormer := shortStatus[former]
	if !ok || (!okFormer && former != "") {
		t.Fatalf("the specification says %q", text)
	}
	return State{s, f}
}

func ctxOf(t *testing.T, words []string) Ctx {
	t.Helper()
	var c Ctx
	fields := map[string]*bool{"notroot": &c.NotRoot, "complete": &c.Complete, "empty": &c.Empty, "destroy": &c.Destroy, "single": &c.Single, "keyin": &c.KeyIn,
		"nokey": &c.NoKey, "sourcehaskey": &c.SourceHasKey, "lastmount": &c.LastMount, "members": &c.Members, "norotation": &c.NoRotation, "rotation": &c.RotationQueued, "allmembers": &c.AllMembers}
	for _, word := range words {
		if fields[word] == nil {
			t.Fatalf("the specification says %q", word)
		}
		*fields[word] = true
	}
	return c
}

func checkSpecification(t *testing.T, specification string, apply func(State, Event, Ctx) (Result, error), help map[Event]string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(specification), "\n")
	columns := strings.Fields(lines[0])[1:]
	seen := map[Event]bool{}
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		head, cells := words[:len(words)-len(columns)], words[len(words)-len(columns):]
		seen[Event(head[0])] = true
		for i, column := range columns {
			from := stateOf(t, column)
			res, err := apply(from, Event(head[0]), ctxOf(t, head[1:]))
			if cells[i] == "." {
				var refused *Refused
				if !errors.As(err, &refused) || res.Effects != nil || res.Next != (State{}) {
					t.Errorf("%s in %s: %v, %v; want a refusal", strings.Join(head, " "), column, res, err)
				}
				continue
			}
			if err != nil || res.Next != stateOf(t, cells[i]) {
				t.Errorf("%s in %s: %v, %v; want %s", strings.Join(head, " "), column, res.Next, err, cells[i])
			}
		}
	}
	for e := range help {
		if !seen[e] {
			t.Errorf("the specification lacks %s", e)
		}
	}
}

func TestDeviceMachine_everyEventInEveryState(t *testing.T) {
	t.Parallel()
	checkSpecification(t, deviceSpecification, Apply, deviceHelp)
}

func TestRAIDMachine_everyEventInEveryState(t *testing.T) {
	t.Parallel()
	checkSpecification(t, raidSpecification, ApplyRAID, nil)
	lost := State{Status: api.DeviceMissing} // a damaged row: nothing says what it was
	if res, err := ApplyRAID(lost, MembersBack, Ctx{AllMembers: true}); err != nil || res.Next != lost {
		t.Errorf("a set without a former status: %v, %v", res.Next, err)
	}
}

func TestMachines_refusalsSayWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		apply func(State, Event, Ctx) (Result, error)
		from  api.DeviceStatus
		event Event
		ctx   Ctx
		says  []string
	}{
		{"M-08", Apply, api.DeviceNotConfigured, EncryptAsked, Ctx{}, []string{"the device is Not configured", "configure the device first"}},
		{"M-09", Apply, api.DeviceConfigured, EncryptAsked, Ctx{Complete: true, Single: true, Empty: true}, []string{"needs: not the root disk"}},
		{"a disk that holds something", Apply, api.DeviceConfigured, EncryptAsked, Ctx{Complete: true, Single: true, NotRoot: true}, []string{"an empty device, or the word"}},
		{"a member", Apply, api.DeviceConfigured, EncryptAsked, Ctx{Complete: true, NotRoot: true, Empty: true}, []string{"not a member of a RAID set"}},
		{"Q-01", Apply, api.DeviceEncrypting, Unconfigured, Ctx{}, []string{"let encryption finish"}},
		{"in use", Apply, api.DeviceInUse, Unconfigured, Ctx{}, []string{"the device is In-use", "stop the agent or revoke the key"}},
		{"key still out", Apply, api.DeviceEncrypted, Unconfigured, Ctx{Single: true, Destroy: true}, []string{"no machine that may hold the key"}},
		{"Q-02", Apply, api.DeviceEncrypted, Unconfigured, Ctx{Single: true, KeyIn: true}, []string{"destroyed for ever"}},
		{"M-14", Apply, api.DeviceInUse, Deleted, Ctx{}, []string{"publish the inventory, then delete it"}},
		{"O-02", Apply, api.DeviceNotConfigured, ConfigurationCopied, Ctx{Single: true}, []string{"a source with an encryption key"}},
		{"P-03", ApplyRAID, "", Created, Ctx{Complete: true}, []string{"the RAID set is new", "two or more members"}},
		{"P-06", ApplyRAID, api.DeviceEncrypted, Deleted, Ctx{}, []string{"unconfigure the set first"}},
	} {
		_, err := c.apply(State{Status: c.from}, c.event, c.ctx)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v; want %q", c.name, err, s)
			}
		}
	}
}

func TestDeviceMachine_effects(t *testing.T) {
	t.Parallel()
	all := Ctx{NotRoot: true, Complete: true, Empty: true, Destroy: true, Single: true, KeyIn: true, NoKey: true, SourceHasKey: true, LastMount: true, Members: true, AllMembers: true,
		NoRotation: true, RotationQueued: true}
	for _, c := range []struct {
		apply func(State, Event, Ctx) (Result, error)
		from  State
		event Event
		want  string
	}{
		{Apply, State{}, Published, "audit(device.added)"},
		{Apply, State{api.DeviceUndetected, api.DeviceEncrypted}, Published, "audit(device.returned)"},
		{Apply, State{Status: api.DeviceInUse}, Vanished, "warn-missing"},
		{Apply, State{Status: api.DeviceConfigured}, EncryptAsked, "queue-job audit(device.encrypt-asked)"},
		{Apply, State{Status: api.DeviceEncryptionPending}, AgentTookJob, "new-key audit(device.encrypting)"},
		{Apply, State{Status: api.DeviceEncrypting}, AgentTookJob, ""}, // the same key again, not another
		{Apply, State{Status: api.DeviceEncrypting}, Encrypted, "store-volume end-job audit(device.encrypted) notify(provisioning-completed)"},
		{Apply, State{api.DeviceUndetected, api.DeviceEncrypting}, Encrypted, "store-volume end-job audit(device.encrypted) notify(provisioning-completed)"},
		{Apply, State{Status: api.DeviceEncryptionPending}, WaitOver, "cancel-job audit(device.encryption-wait-over) notify(provisioning-idle)"},
		{Apply, State{Status: api.DeviceEncrypted}, Mounted, "mark-verified audit(device.in-use)"},
		{Apply, State{Status: api.DeviceConfigured}, KeyImported, "take-key store-volume audit(device.imported)"},
		{Apply, State{Status: api.DeviceNotConfigured}, ConfigurationCopied, "copy-key mark-unverified audit(device.cloned)"},
		{Apply, State{Status: api.DeviceInUse}, RotationAsked, "pend-key queue-job audit(device.key-rotation-asked)"},
		{Apply, State{Status: api.DeviceEncrypted}, RotationCancelled, "drop-pending-key audit(device.key-rotation-cancelled)"},
		{Apply, State{Status: api.DeviceEncrypted}, Unconfigured, "destroy-key clear-configuration audit(device.unconfigured)"},
		{Apply, State{api.DeviceUndetected, api.DeviceEncrypted}, Deleted, "destroy-key remove audit(device.deleted)"},
		{ApplyRAID, State{Status: api.DeviceInUse}, MemberVanished, "warn-missing"},
		{ApplyRAID, State{api.DeviceMissing, api.DeviceEncrypted}, Deleted, "destroy-key release-members remove audit(raid-set.deleted)"},
	} {
		res, err := c.apply(c.from, c.event, all)
		var got []string
		for _, e := range res.Effects {
			got = append(got, e.String())
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s in %v: %v, %v; want %s", c.event, c.from, got, err, c.want)
		}
	}
}

func TestTables_areWhatTheDocumentationShows(t *testing.T) {
	t.Parallel()
	for path, got := range map[string]string{"testdata/device-machine.md": Table(), "testdata/raid-machine.md": RAIDTable()} {
		if *updateMachine {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("the machine changed: check it against the features, then run the test with -update-machine\n%s", got)
		}
	}
}
