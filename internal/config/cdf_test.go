package config

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/vending"
)

func imported(t *testing.T, text string) (Config, Imported) {
	t.Helper()
	made, err := ImportCDF(text)
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	if err := decode([]byte(made.YAML), &c); err != nil {
		t.Fatalf("%v in\n%s", err, made.YAML)
	}
	return c, made
}

var caID = strings.Repeat("ab", 32)

// What the installer writes comes to a configuration that can work.
func TestImportCDF(t *testing.T) {
	c, made := imported(t, strings.ReplaceAll(`# written by the installer
AWS_ACCOUNTID=123456789012
AWS_REGION=eu-west-1
AWS_IOT_ENDPOINT="abc-ats.iot.eu-west-1.amazonaws.com"
AWS_S3_CERTIFICATES_BUCKET=packages
AWS_S3_CERTIFICATES_PREFIX=certs/
AWS_S3_CERTIFICATES_PRESIGNEDURL_EXPIRESINSECONDS=600
AWS_IOT_THINGGROUP_ROTATECERTIFICATES='rotateThem'
MQTT_TOPICS_GET_ROOT=acme/+/get
MQTT_TOPICS_GET_SUCCESS=acme/{thingName}/get/accepted
MQTT_TOPICS_GET_FAILURE=acme/{thingName}/get/rejected
FEATURES_DELETEPREVIOUSCERTIFICATE=true
DEFAULTS_CERTIFICATES_CERTIFICATEEXPIRYDAYS=365
CERTIFICATES_CACERTIFICATEID=`+caID+`
POLICIES_ROTATEDCERTIFICATEPOLICY=devices
USE_DEFAULT_POLICY=true
REGISTRY_MODE=AssetLibrary
ASSETLIBRARY_MODE=lambda
ASSETLIBRARY_API_FUNCTION_NAME=assets
ASSETLIBRARY_HEADERS={"X-Tenant":"a","Accept":"b"}
LOGGING_LEVEL=silly
COMMANDANDCONTROL_MODE=lambda
`, "\n", "\r\n"))
	if err := c.Validate(); err != nil {
		t.Errorf("%v in\n%s", err, made.YAML)
	}
	want := Default()
	want.Backend, want.AWS.Region, want.AWS.Broker.Endpoint, want.AWS.Broker.Identity =
		AWSBackend, "eu-west-1", "abc-ats.iot.eu-west-1.amazonaws.com", "direct"
	want.AWS.Packages.Bucket, want.AWS.Packages.Prefix, want.Vending.LinkTTL = "packages", "certs/", 10*time.Minute
	want.Rotation.Group, want.Rotation.Previous = "rotateThem", certificate.Delete
	want.MQTT.Topics.Get, want.MQTT.Topics.GetAccepted, want.MQTT.Topics.GetRejected =
		"acme/{thingName}/get", "acme/{thingName}/get/accepted", "acme/{thingName}/get/rejected"
	want.Vending.Validity, want.AWS.Issuer.CA = 8760*time.Hour, caID
	want.Policy.Mode, want.Policy.Default = vending.PolicyDefault, "devices"
	want.AWS.Registry, want.AWS.AssetLibrary.Function = "asset-library", "assets"
	want.AWS.AssetLibrary.Headers = []string{"Accept: b", "X-Tenant: a"}
	want.Log.Level = "debug"
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(Secret{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(made.Notes) > 0 {
		t.Errorf("notes %v", made.Notes)
	}
}

func TestImportCDFWithPrivateCA(t *testing.T) {
	const arn = "arn:aws:acm-pca:us-east-1:123456789012:certificate-authority/11111111-2222-3333-4444-555555555555"
	const other = "arn:aws:acm-pca:us-east-1:123456789012:certificate-authority/66666666-2222-3333-4444-555555555555"
	c, made := imported(t, `AWS_REGION=eu-west-1
AWS_IOT_ENDPOINT=abc-ats.iot.eu-west-1.amazonaws.com
REGISTRY_MODE=Assetlibrary
ACMPCA_ENABLED=true
ACMPCA_CA_ARN=`+arn+`
ACMPCA_SIGNING_ALGORITHM=SHA384WITHECDSA
ACM_REGION=us-east-1
ACM_PCA_CROSS_ACCOUNT_ROLE_ARN=arn:aws:iam::210987654321:role/ca
PCA_ANOTHER=`+other+`
PCA_MILL=`+arn+`
PCA_OLDNAME=`+arn+`
CA_FIELD=`+caID+`
DEFAULTS_DEVICE_STATUS_SUCCESS_KEY=condition
DEFAULTS_DEVICE_STATUS_SUCCESS_VALUE=fine
SOMETHING_ELSE=1
`)
	if err := c.Validate(); err != nil {
		t.Errorf("%v in\n%s", err, made.YAML)
	}
	p := c.AWS.Issuer.PCA
	if c.AWS.Issuer.Kind != "pca" || !slices.Equal(p.CAs, []string{"MILL=" + arn, "ANOTHER=" + other}) || !slices.Equal(p.IoTCAs, []string{"FIELD=" + caID}) ||
		p.Algorithm != "SHA384WITHECDSA" || p.Role != "arn:aws:iam::210987654321:role/ca" {
		t.Errorf("issuer %+v", c.AWS.Issuer)
	}
	if c.AWS.Registry != "none" || !strings.Contains(made.YAML, "# REGISTRY_MODE=Assetlibrary lets every device in") {
		t.Errorf("the original's typo goes unsaid:\n%s", made.YAML)
	}
	if c.Rotation.Previous != certificate.Keep || c.Policy.Mode != vending.PolicyInherit {
		t.Errorf("previous %s, policy %s", c.Rotation.Previous, c.Policy.Mode)
	}
	if c.Rotation.Status != (Status{"condition", "fine"}) {
		t.Errorf("status %+v", c.Rotation.Status)
	}
	notes := strings.Join(made.Notes, "\n")
	for _, name := range []string{"SOMETHING_ELSE is not known", "PCA_OLDNAME is a second alias"} {
		if !strings.Contains(notes, name) {
			t.Errorf("nothing is said of %s: %s", name, notes)
		}
	}
}

func TestImportCDFOfWhatIsNone(t *testing.T) {
	for _, text := range []string{"{}", "A B=1", "=1", "plain"} {
		if _, err := ImportCDF(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	made, err := ImportCDF("REGISTRY_MODE=DeviceRegistry\nDEFAULTS_CERTIFICATES_CERTIFICATEEXPIRYDAYS=never\n")
	if err != nil || !slices.Equal(made.Notes, []string{"DEFAULTS_CERTIFICATES_CERTIFICATEEXPIRYDAYS is no number that makes sense"}) {
		t.Errorf("%v, %v", made.Notes, err)
	}
}
