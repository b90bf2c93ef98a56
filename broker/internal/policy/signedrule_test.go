package policy

import (
	"strings"

	"keyward/broker/api"
)

// signedExpectations are those of facts that hardware or a cloud signs.
var signedExpectations = func() []expectation {
	pcr := strings.Repeat("0f", 32)
	out := []expectation{
		{api.FactTPMPCR, api.OpEqual, pcr, []string{pcr, strings.ToUpper(pcr)}, []string{digestB, pcr[:62], ""}},
		{api.FactTPMPCR, api.OpNotEqual, pcr, []string{digestB}, []string{pcr, "0"}},
		{api.FactTPMPCR, api.OpIn, pcr + "," + digestB, []string{pcr, digestB}, []string{digestA}},
		{api.FactIdentityKey, api.OpEqual, api.KeyInCertifiedTPM, []string{api.KeyInCertifiedTPM}, []string{api.KeyInTPM, api.KeyInSoftware, ""}},
		{api.FactIdentityKey, api.OpNotEqual, api.KeyInSoftware, []string{api.KeyInTPM, api.KeyInCertifiedTPM}, []string{api.KeyInSoftware, "tpm", ""}},
	}
	for name, value := range map[api.FactName]string{api.FactCloudProvider: "aws", api.FactCloudAccount: "123456789012", api.FactCloudRegion: "eu-central-1",
		api.FactCloudInstance: "i-0123456789abcdef0", api.FactCloudImage: "ami-0123456789abcdef0", api.FactCloudInstanceType: "m6i.large"} {
		out = append(out,
			expectation{name, api.OpEqual, value, []string{value}, []string{"other", value + "0", ""}},
			expectation{name, api.OpNotEqual, value, []string{"other"}, []string{value}},
			expectation{name, api.OpIn, "x, " + value, []string{"x", value}, []string{"x, " + value, "y"}})
	}
	return out
}()
