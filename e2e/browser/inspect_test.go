package browser

import (
	_ "embed"
)

//go:embed testdata/inspect.js
var inspectJS string

// inspect looks for what keeps people from using the page; see testdata/inspect.js.
func (b *tab) inspect(name string) {
	b.t.Helper()
	for _, finding := range eval[[]string](b, inspectJS) {
		b.t.Errorf("%s: %s", name, finding)
	}
}
