package ui

import (
	"encoding/base64"
	"html/template"
)

// LogOnCodePage asks for the second factor of a log-on.
type LogOnCodePage struct {
	Frame
	Code Field
	Next string
}

// SecondFactorPage shows and changes one's own second factor.
type SecondFactorPage struct {
	Frame
	Facts []Pair
	Setup *FactorSetup
	// Codes are new recovery codes, shown this once.
	Codes []string
	Forms []FactorForm
}

// FactorSetup is what an authenticator needs.
type FactorSetup struct {
	Picture template.URL
	Secret  string
}

// PNG is a picture that stands inside the page.
func PNG(data []byte) template.URL {
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(data))
}

// FactorForm is one of several small forms of a page.
type FactorForm struct {
	Title, Text string
	Action      string
	Fields      []Field
	Submit      string
	Danger      bool
}
