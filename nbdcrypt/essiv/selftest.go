package essiv

import "keyward/nbdcrypt/internal/sector"

// knownAnswers were made with crypto/cipher's CBC and crypto/sha256, and a test makes them again.
var knownAnswers = []sector.KnownAnswer{
	{Label: "AES-128-CBC-ESSIV", KeyLen: 16, Digest: "1324dd7d247a0c59910d72d5917da8ab80fe95310cafe672b5b4bfd19afc16b8"},
	{Label: "AES-192-CBC-ESSIV", KeyLen: 24, Digest: "1291eaf83ea5520621d126f02e38a49cfb28a37ebdcad966606d051d8da14e09"},
	{Label: "AES-256-CBC-ESSIV", KeyLen: 32, Digest: "4bdce9389f901eb031e7409e54ba67ef3aa28036382b106216957187a073170f"},
}

// SelfTest runs known-answer tests, both ways, of the kernel that New uses, for each key size. A volume must not be
// opened if it fails.
func SelfTest() error { return sector.SelfTest(registry.Best(), knownAnswers) }
