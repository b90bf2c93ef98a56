//go:build !pkcs11

package rootkey

import "errors"

// newToken refuses: the PKCS#11 library is C, and this program was built without it to be one static file.
func newToken(Description, bool) (place, error) {
	return nil, errors.New("this keyward-broker was built without PKCS#11; build it with make build-pkcs11, or install the package that has it")
}
