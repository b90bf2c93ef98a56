// Package tenant names on whose behalf something is done. A Principal is passed to every method of a service, explicitly,
// so that no call can forget whose data it works on and who is written into the audit log.
package tenant

import (
	"crypto/tls"
	"time"

	"keyward/broker/api"
)

// Principal is an authenticated caller: a person with a session or a machine with a client certificate.
type Principal struct {
	AccountID string
	// UserID, UserName, Role and SessionID are a person's; empty for a machine.
	UserID    string
	UserName  string
	Role      api.Role
	SessionID string
	// Stage is what is still to be done before the session counts; FactorAt when a second factor was last shown in it.
	Stage    api.Stage
	FactorAt *time.Time
	// Address is where the call came from, without port.
	Address string
	// Instance is the ID of the calling machine; empty for a person.
	Instance string
	// Certificate is the SHA-256, in hexadecimal, of the client certificate of the call.
	Certificate string
	// Unproven says that only the certificate's signature vouches for Instance and AccountID so far: whether the certificate is
	// on record for the machine is found out by the call's own transaction (inventory.Caller).
	Unproven bool
	// Image is the image whose certificate the call carries, of a machine that has none yet.
	Image string
	// Connection is what the call of a machine came on; nil for everybody else.
	Connection *Connection
	// Operator is set for commands on the broker's own machine.
	Operator bool
}

// Connection is a machine's TLS connection, of which it can make nonces.
type Connection struct {
	State *tls.ConnectionState
	// Began is when the broker accepted it, by the broker's clock.
	Began time.Time
}

// Actor is how the audit log names the caller: "user:NAME", "instance:ID", "image:ID" for a machine that enrols by
// its image's certificate, "operator" for commands on the broker's
// machine, or "broker" for the broker's own work.
func (p Principal) Actor() string {
	switch {
	case p.Instance != "":
		return "instance:" + p.Instance
	case p.Image != "":
		return "image:" + p.Image
	case p.UserName != "":
		return "user:" + p.UserName
	case p.Operator:
		return "operator"
	}
	return "broker"
}

// Broker is the broker itself, for timers and other work that nobody asked for.
func Broker(accountID string) Principal { return Principal{AccountID: accountID} }
