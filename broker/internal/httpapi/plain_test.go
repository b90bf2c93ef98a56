package httpapi

import (
	"bytes"
	"encoding/json"
	"testing"
)

func FuzzHoldsNUL(f *testing.F) {
	for _, s := range []string{"", "\x00", `a\u0000b`, `\\u0000`, `\`, "\\\x00", `\u0000\u0000`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		body, err := json.Marshal(text)
		if err != nil {
			t.Skip()
		}
		if got, want := holdsNUL(body), bytes.IndexByte([]byte(text), 0) >= 0; got != want {
			t.Errorf("holdsNUL(%s) = %v, want %v", body, got, want)
		}
	})
}
