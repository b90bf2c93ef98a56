package api

// EnrolmentToken is the text form of an enrolment token that an administrator hands to a machine:
//
//	kw1.<token ID>.<secret>.<pin>
//
// Secret is 32 random bytes and pin the SHA-256 of the broker CA's SubjectPublicKeyInfo, both base64url without
// padding. The machine checks the pin before it sends the secret.
type EnrolmentToken struct {
	ID     string
	Secret string
	Pin    string
}

// TokenPrefix opens every enrolment token of this version.
const TokenPrefix = "kw1"
