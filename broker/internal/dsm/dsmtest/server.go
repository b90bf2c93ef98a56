// Package dsmtest is a Deep Security Manager for tests: the part of its REST interface, version 1, that the broker uses, as
// the manager's own documentation and clients describe it.
package dsmtest

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Key is the API key that a manager accepts.
const Key = "2:c3VwZXJzZWNyZXQ=:aBcD"

// Computer is a computer as the manager's JSON has it.
type Computer map[string]any

// Server is a manager.
type Server struct {
	http *httptest.Server

	mu        sync.Mutex
	computers []Computer
	calls     int
	answer    func(w http.ResponseWriter) bool
}

// New starts a manager with its own certificate.
func New(computers ...Computer) *Server {
	s := &Server{}
	s.Set(computers...)
	s.http = httptest.NewTLSServer(http.HandlerFunc(s.serve))
	return s
}

// Close stops it.
func (s *Server) Close() { s.http.Close() }

// Address is where it listens.
func (s *Server) Address() (host string, port int) {
	u, _ := url.Parse(s.http.URL)
	port, _ = strconv.Atoi(u.Port())
	return u.Hostname(), port
}

// Authority is its certificate in PEM.
func (s *Server) Authority() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw}))
}

// Set replaces its computers.
func (s *Server) Set(computers ...Computer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.computers = slices.Clone(computers)
	slices.SortFunc(s.computers, func(a, b Computer) int { return a["ID"].(int) - b["ID"].(int) })
}

// Answer lets f answer instead, if it returns true; nil ends that.
func (s *Server) Answer(f func(w http.ResponseWriter) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = f
}

// Calls counts what was asked.
func (s *Server) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	fail := func(status int, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
	}
	switch {
	case s.answer != nil && s.answer(w):
		return
	case r.Header.Get("api-secret-key") != Key:
		fail(http.StatusForbidden, "Authentication failed")
		return
	case r.Header.Get("api-version") != "v1":
		fail(http.StatusBadRequest, "Invalid API version")
		return
	case r.Method != http.MethodPost || r.URL.Path != "/api/computers/search":
		fail(http.StatusNotFound, "Not found")
		return
	}
	var in struct {
		MaxItems       int  `json:"maxItems"`
		SortByObjectID bool `json:"sortByObjectID"`
		SearchCriteria []struct {
			IDValue int    `json:"idValue"`
			IDTest  string `json:"idTest"`
		} `json:"searchCriteria"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil || in.MaxItems < 1 || in.MaxItems > 5000 || len(in.SearchCriteria) != 1 ||
		in.SearchCriteria[0].IDTest != "greater-than" || !in.SortByObjectID {
		fail(http.StatusBadRequest, "Invalid SearchFilter")
		return
	}
	parts := strings.Split(r.URL.Query().Get("expand"), ",")
	page := []Computer{}
	for _, c := range s.computers {
		if c["ID"].(int) > in.SearchCriteria[0].IDValue && len(page) < in.MaxItems {
			page = append(page, expanded(c, parts))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"computers": page})
}

// basic are the fields that an answer has whatever is expanded.
var basic = []string{"ID", "hostName", "displayName", "hostGUID", "biosUUID", "lastIPUsed", "platform", "groupID", "policyID", "agentVersion"}

func expanded(c Computer, parts []string) Computer {
	out := Computer{}
	for name, value := range c {
		if slices.Contains(basic, name) || slices.Contains(parts, name) {
			out[name] = value
		}
	}
	return out
}

// Module is one protection as the JSON has it.
func Module(state, agentStatus string) map[string]any {
	return map[string]any{"state": state, "moduleStatus": map[string]any{"agentStatus": agentStatus, "agentStatusMessage": ""}}
}

// Protected is a computer with everything switched on and well.
func Protected(id int, hostName, biosUUID, address string) Computer {
	return Computer{"ID": id, "hostName": hostName, "displayName": hostName, "biosUUID": biosUUID, "lastIPUsed": address,
		"hostGUID": "", "platform": "Debian Linux 12 (64 bit)", "agentVersion": "20.0.1.690",
		"computerStatus": map[string]any{"agentStatus": "active", "agentStatusMessages": []string{"Managed (Online)"}},
		"antiMalware":    Module("on", "active"), "webReputation": Module("on", "active"), "firewall": Module("inherited", "active"),
		"intrusionPrevention": Module("prevent", "active"), "integrityMonitoring": Module("real-time", "active"),
		"logInspection": Module("off", "inactive")}
}
