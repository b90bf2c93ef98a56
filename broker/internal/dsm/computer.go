package dsm

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Computer is what a manager says of one machine; fields that are not used here are left out. Names are those of the
// manager's interface.
type Computer struct {
	ID         int    `json:"ID"`
	HostName   string `json:"hostName"`
	HostGUID   string `json:"hostGUID"`
	BIOSUUID   string `json:"biosUUID"`
	LastIPUsed string `json:"lastIPUsed"`

	Status              Status `json:"computerStatus"`
	AntiMalware         Module `json:"antiMalware"`
	WebReputation       Module `json:"webReputation"`
	Firewall            Module `json:"firewall"`
	IntrusionPrevention Module `json:"intrusionPrevention"`
	IntegrityMonitoring Module `json:"integrityMonitoring"`
	LogInspection       Module `json:"logInspection"`

	EC2 struct {
		InstanceID string `json:"instanceID"`
	} `json:"ec2VirtualMachineSummary"`
}

// Status is the state of an agent or of one of its modules: inactive, active, warning, error, not-supported.
type Status struct {
	AgentStatus string `json:"agentStatus"`
}

// Module is one protection. State is off, on, inherited, or a kind of on: real-time, detect, prevent.
type Module struct {
	State  string `json:"state"`
	Status Status `json:"moduleStatus"`
}

// parseComputers reads an answer of computers/search.
func parseComputers(raw []byte) ([]Computer, error) {
	var answer struct {
		Computers *[]Computer `json:"computers"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNotManager, err)
	}
	if answer.Computers == nil {
		return nil, fmt.Errorf("%w: its answer has no computers", ErrNotManager)
	}
	return *answer.Computers, nil
}

// light is the colour in which the manager shows a machine.
func (s Status) light() (string, bool) {
	switch strings.ToLower(s.AgentStatus) {
	case "active":
		return "green", true
	case "warning":
		return "yellow", true
	case "error":
		return "red", true
	case "inactive", "not-supported":
		return "grey", true
	}
	return "", false
}

// value is the fact about a protection. What the agent reports goes before what the policy of the manager wants: a module
// that is switched on and does not work is not "on".
func (m Module) value() (string, bool) {
	state := strings.ToLower(m.State)
	switch strings.ToLower(m.Status.AgentStatus) {
	case "not-supported":
		return "not-capable", true
	case "error":
		return "error", true
	case "warning":
		return "warning", true
	case "inactive":
		return "off", true
	case "active":
		if state == "off" {
			return "off", true
		}
		return "on", true
	}
	if state == "off" {
		return "off", true
	}
	return "", false // switched on, as the manager believes, but the agent has not said so
}
