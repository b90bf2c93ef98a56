// Package ui draws the pages of the console: html/template, one style sheet and a few ES modules, all embedded.
//
// A page is a template and a typed model (view*.go). The package knows nothing of the broker: whoever serves the pages
// fills the models. Every page works as plain links and forms; the modules only make it quicker to use. Nothing is
// inline, so the pages stand under a content security policy without exceptions.
package ui

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io"
	"reflect"
)

//go:embed template/*.html
var templateFiles embed.FS

// page couples a template with the only type of model that it takes.
type page struct {
	template *template.Template
	model    reflect.Type
}

var pages = mustLoad()

// The pages and their models.
var models = map[string]any{
	"logon":             LogOnPage{},
	"logon-code":        LogOnCodePage{},
	"second-factor":     SecondFactorPage{},
	"problem":           ProblemPage{},
	"running-instances": RunningInstancesPage{},
	"key-request":       KeyRequestPage{},
	"instance":          InstancePage{},
	"images":            ImagesPage{},
	"image":             ImagePage{},
	"devices":           DevicesPage{},
	"device":            DevicePage{},
	"raid-set":          RAIDSetPage{},
	"policies":          PoliciesPage{},
	"policy":            PolicyPage{},
	"logs":              LogsPage{},
	"archives":          ArchivesPage{},
	"proofs":            ProofsPage{},
	"users":             UsersPage{},
	"roles":             RolesPage{},
	"account":           AccountPage{},
	"tokens":            TokensPage{},
	"sessions":          SessionsPage{},
	"recovery-key":      RecoveryPage{},
	"jobs":              JobsPage{},
	"exports":           ExportsPage{},
	"export":            ExportPage{},
	"form":              FormPage{},
}

func mustLoad() map[string]page {
	frame := template.Must(template.New("frame").Funcs(template.FuncMap{
		"icon":  icon,
		"asset": AssetURL,
		"dict":  pair,
	}).ParseFS(templateFiles, "template/frame.html", "template/part_*.html"))
	loaded := make(map[string]page, len(models))
	for name, model := range models {
		t := template.Must(template.Must(frame.Clone()).ParseFS(templateFiles, "template/"+name+".html"))
		loaded[name] = page{template: t.Lookup("frame.html"), model: reflect.TypeOf(model)}
	}
	return loaded
}

// Pages returns the names that Render takes, each with an empty model of its type.
func Pages() map[string]any {
	all := make(map[string]any, len(models))
	for name, model := range models {
		all[name] = model
	}
	return all
}

// Render writes a whole page. It writes nothing when it fails: an unknown page, a model of another type, or a template
// that cannot be filled.
func Render(w io.Writer, name string, model any) error {
	p, ok := pages[name]
	if !ok {
		return fmt.Errorf("render page %q: no such page; the names are those of ui.Pages", name)
	}
	if got := reflect.TypeOf(model); got != p.model {
		return fmt.Errorf("render page %q: the model is %v, the page takes %v", name, got, p.model)
	}
	var out bytes.Buffer
	if err := p.template.Execute(&out, model); err != nil {
		return fmt.Errorf("render page %q: %w", name, err)
	}
	_, err := w.Write(out.Bytes())
	return err
}

// pair hands a part the page's frame together with the value it draws.
func pair(frame, value any) map[string]any {
	return map[string]any{"Frame": frame, "Value": value}
}
