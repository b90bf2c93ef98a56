package attest_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/smallstep/pkcs7"

	"keyward/broker/api"
	"keyward/broker/internal/attest"
	"keyward/e2e/lab"
)

func region(t testing.TB, name string) (*lab.Cloud, attest.Clouds) {
	t.Helper()
	c, err := lab.NewCloud(name)
	if err != nil {
		t.Fatal(err)
	}
	return c, attest.Clouds{AWS: map[string][]*x509.Certificate{name: {c.Certificate}}}
}

func document(t testing.TB, c *lab.Cloud, instance string) api.CloudDocument {
	t.Helper()
	d, err := c.Document(instance)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A document counts when the pinned certificate of the region that it names signed it, over SHA-256.
func TestClouds_believeThePinnedCertificateOfTheRegionAlone(t *testing.T) {
	t.Parallel()
	home, pins := region(t, "eu-central-1")
	good := document(t, home, "i-0123456789abcdef0")
	d, err := pins.Verify(good)
	if err != nil || d.Identity() != "aws/123456789012/eu-central-1/i-0123456789abcdef0" || d.Zone != "eu-central-1b" || d.ImageID != "ami-0a1b2c3d4e5f67890" {
		t.Fatalf("verified %+v, %v", d, err)
	}
	forger, _ := region(t, "eu-central-1") // same names, same serial number, another key
	elsewhere, _ := region(t, "us-east-1")
	lying := elsewhere.Members("i-1")
	lying["region"] = "eu-central-1"
	sign := func(c *lab.Cloud, change func(map[string]any)) api.CloudDocument {
		m := c.Members("i-1")
		change(m)
		d, err := c.Sign(m, pkcs7.OIDDigestAlgorithmSHA256)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	sha1, err := home.Sign(home.Members("i-1"), pkcs7.OIDDigestAlgorithmSHA1)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := elsewhere.Sign(lying, pkcs7.OIDDigestAlgorithmSHA256)
	if err != nil {
		t.Fatal(err)
	}
	changed := api.CloudDocument{Kind: good.Kind, Document: bytes.Replace(good.Document, []byte("i-0123456789abcdef0"), []byte("i-0123456789abcdef1"), 1)}
	for name, c := range map[string]struct {
		doc  api.CloudDocument
		want string
	}{
		"a forger's certificate inside":  {document(t, forger, "i-1"), "signature is not by"},
		"another region that lies":       {foreign, "signature is not by"},
		"a region without a certificate": {document(t, elsewhere, "i-1"), "add us-east-1.pem"},
		"a changed instance":             {changed, "signature is not by"},
		"SHA-1":                          {sha1, "SHA-256"},
		"no region":                      {sign(home, func(m map[string]any) { delete(m, "region") }), "names no region"},
		"a region that is a path":        {sign(home, func(m map[string]any) { m["region"] = "../../etc" }), "names no region"},
		"no instance":                    {sign(home, func(m map[string]any) { delete(m, "instanceId") }), "instanceId"},
		"an instance with control signs": {sign(home, func(m map[string]any) { m["instanceId"] = "i-1\n" }), "instanceId"},
		"another kind":                   {api.CloudDocument{Kind: "aws-pkcs7", Document: good.Document}, "this kind"},
		"nothing":                        {api.CloudDocument{Kind: api.CloudAWS}, "bytes"},
		"too much":                       {api.CloudDocument{Kind: api.CloudAWS, Document: make([]byte, 1<<20)}, "bytes"},
		"rubbish":                        {api.CloudDocument{Kind: api.CloudAWS, Document: []byte("{}")}, "PKCS"},
		"something behind it":            {api.CloudDocument{Kind: api.CloudAWS, Document: append(bytes.Clone(good.Document), 0)}, "DER"},
		"no certificates at all":         {good, "add eu-central-1.pem"},
	} {
		trust := pins
		if name == "no certificates at all" {
			trust = attest.Clouds{}
		}
		if _, err := trust.Verify(c.doc); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestParsePins_namesWhatIsWrong(t *testing.T) {
	t.Parallel()
	c, _ := region(t, "eu-central-1")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate.Raw})
	if pins, err := attest.ParsePins("us-gov-west-1", append(text, text...)); err != nil || len(pins) != 2 {
		t.Errorf("two certificates: %d, %v", len(pins), err)
	}
	for region, text := range map[string][]byte{"EU": text, "eu-central-1": nil, "eu-central-2": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"}),
		"eu-central-3": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})} {
		if _, err := attest.ParsePins(region, text); err == nil {
			t.Errorf("%s: taken", region)
		}
	}
}

func FuzzCloudDocument(f *testing.F) {
	c, pins := region(f, "eu-central-1")
	d := document(f, c, "i-1")
	f.Add(d.Document)
	f.Add(d.Document[:len(d.Document)/2])
	f.Add([]byte{0x30, 0x80, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02, 0xa0, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		got, err := pins.Verify(api.CloudDocument{Kind: api.CloudAWS, Document: der})
		if err == nil && got.InstanceID != "i-1" {
			t.Errorf("verified what nobody signed: %+v", got)
		}
	})
}
