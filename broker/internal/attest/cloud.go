package attest

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"

	"github.com/smallstep/pkcs7"

	"keyward/broker/api"
)

// Limits of a cloud's document, bytes.
const (
	maxDocument = 16 << 10
	maxContent  = 8 << 10
)

// Clouds verifies the documents of cloud instances by pinned certificates. The zero value knows none.
type Clouds struct {
	// AWS are the certificates of EC2's RSA-2048 signatures by region, as AWS publishes them.
	AWS map[string][]*x509.Certificate
}

// CloudDocument is what a cloud says of one instance.
type CloudDocument struct {
	Provider, Account, Region, Zone, InstanceID, ImageID, InstanceType string
}

// Identity names the instance in all clouds.
func (d CloudDocument) Identity() string {
	return d.Provider + "/" + d.Account + "/" + d.Region + "/" + d.InstanceID
}

// regionName is a region of AWS; a file of certificates is named after it.
var regionName = regexp.MustCompile(`^[a-z]{2}(-[a-z]{2,12}){1,3}-[0-9]{1,2}$`)

// awsDocument is the part of an instance identity document that is used.
type awsDocument struct {
	AccountID        string `json:"accountId"`
	Region           string `json:"region"`
	AvailabilityZone string `json:"availabilityZone"`
	InstanceID       string `json:"instanceId"`
	ImageID          string `json:"imageId"`
	InstanceType     string `json:"instanceType"`
}

// member is what every member of a document looks like.
var member = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,128}$`)

// Verify checks a document's signature by the pinned certificates of the region that it names. Certificates inside the
// document are not looked at.
func (c Clouds) Verify(in api.CloudDocument) (CloudDocument, error) {
	if in.Kind != api.CloudAWS {
		return CloudDocument{}, errors.New("this broker does not know documents of this kind")
	}
	if len(in.Document) == 0 || len(in.Document) > maxDocument {
		return CloudDocument{}, fmt.Errorf("a document has 1 to %d bytes", maxDocument)
	}
	p, err := parsePKCS7(in.Document)
	if err != nil {
		return CloudDocument{}, fmt.Errorf("not a PKCS #7 document: %w", err)
	}
	if len(p.Content) > maxContent {
		return CloudDocument{}, fmt.Errorf("its content has more than %d bytes", maxContent)
	}
	var d awsDocument
	if err := json.Unmarshal(p.Content, &d); err != nil {
		return CloudDocument{}, errors.New("its content is not an instance identity document")
	}
	if !regionName.MatchString(d.Region) {
		return CloudDocument{}, errors.New("it names no region")
	}
	pins := c.AWS[d.Region]
	if len(pins) == 0 {
		return CloudDocument{}, fmt.Errorf("the broker has no certificate of region %s; add %s.pem to the folder --ec2-certificates", d.Region, d.Region)
	}
	if len(p.Signers) != 1 || !p.Signers[0].DigestAlgorithm.Algorithm.Equal(pkcs7.OIDDigestAlgorithmSHA256) {
		return CloudDocument{}, errors.New("it has not one signature over SHA-256; use the rsa2048 document")
	}
	p.Certificates = pins
	if err := p.Verify(); err != nil {
		return CloudDocument{}, fmt.Errorf("its signature is not by the certificate of region %s", d.Region)
	}
	for name, value := range map[string]string{"accountId": d.AccountID, "availabilityZone": d.AvailabilityZone, "instanceId": d.InstanceID, "imageId": d.ImageID,
		"instanceType": d.InstanceType} {
		if !member.MatchString(value) {
			return CloudDocument{}, fmt.Errorf("its %s is missing or not a name", name)
		}
	}
	return CloudDocument{Provider: "aws", Account: d.AccountID, Region: d.Region, Zone: d.AvailabilityZone, InstanceID: d.InstanceID, ImageID: d.ImageID,
		InstanceType: d.InstanceType}, nil
}

// parsePKCS7 reads DER only. The library reads BER as well, of which documents make no use and attackers might.
func parsePKCS7(der []byte) (*pkcs7.PKCS7, error) {
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &outer); err != nil || len(rest) > 0 {
		return nil, errors.New("it is not DER")
	}
	return pkcs7.Parse(der)
}

// ParsePins reads the certificates of one region, PEM.
func ParsePins(region string, text []byte) ([]*x509.Certificate, error) {
	if !regionName.MatchString(region) {
		return nil, fmt.Errorf("%q is not a region of AWS, for example eu-central-1", region)
	}
	return ParseCertificates(text)
}

// ParseCertificates reads one or more certificates, PEM.
func ParseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %q where a certificate belongs", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM certificate found")
	}
	return out, nil
}
