package xts

import "keyward/nbdcrypt/internal/sector"

// knownAnswers were made with golang.org/x/crypto/xts, and a test makes them again.
var knownAnswers = []sector.KnownAnswer{
	{Label: "AES-128-XTS", KeyLen: 32, Digest: "fff9e1ee5d56f89518666235187bfff5ad188b07ebf6fca45d3c23df95176550"},
	{Label: "AES-192-XTS", KeyLen: 48, Digest: "916aea6434a3735dd5e882f113d1415577f2202e32297ca1eab8eaf51ab240f8"},
	{Label: "AES-256-XTS", KeyLen: 64, Digest: "703a0a7d78e919b18c55bc1e105b9aa71aac31f02c7739e279ff6c9036c026b0"},
}

// SelfTest runs known-answer tests, both ways, of the kernel that New uses, for each key size. A volume must not be
// opened if it fails.
func SelfTest() error { return sector.SelfTest(registry.Best(), knownAnswers) }
