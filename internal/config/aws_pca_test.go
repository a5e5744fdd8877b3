package config

import (
	"slices"
	"strings"
	"testing"
)

const soundPCA = "arn:aws-cn:acm-pca:cn-north-1:123456789012:certificate-authority/11111111-2222-3333-4444-555555555555"

func withPCA(pca string) string {
	ca := `issuer: {ca: "` + strings.Repeat("a", 64) + `"}`
	return strings.Replace(soundAWS, ca, "issuer: {kind: pca, pca: {"+pca+"}}", 1)
}

func TestLoadPCA(t *testing.T) {
	id := strings.Repeat("b", 64)
	got, err := Load(write(t, withPCA(`cas: ["mill=`+soundPCA+`", "`+soundPCA+`0"], iot_cas: [Mill=`+id+`]`)), []string{"KEY=secret"})
	if err != nil {
		t.Fatal(err)
	}
	pca := got.AWS.Issuer.PCA
	if want := []NamedCA{{"mill", soundPCA}, {"", soundPCA + "0"}}; !slices.Equal(pca.NamedCAs(), want) {
		t.Errorf("CAs %v", pca.NamedCAs())
	}
	if want := []NamedCA{{"Mill", id}}; !slices.Equal(pca.NamedIoTCAs(), want) || !pca.CertInfo || pca.MaxDays != 1095 {
		t.Errorf("%+v", pca)
	}
}

func TestLoadPCARefuses(t *testing.T) {
	for name, c := range map[string]struct{ pca, want string }{
		"no CA":                  {"cas: []", "aws.issuer.pca.cas"},
		"another service's ARN":  {`cas: ["arn:aws:iot:eu-west-1:123456789012:cert/1"]`, "aws.issuer.pca.cas"},
		"an alias with a space":  {`cas: ["a b=` + soundPCA + `"]`, "aws.issuer.pca.cas"},
		"an alias twice":         {`cas: ["a=` + soundPCA + `", "A=` + soundPCA + `0"]`, "twice"},
		"a CA twice":             {`cas: ["a=` + soundPCA + `", "` + soundPCA + `"]`, "twice"},
		"an IoT CA by its ARN":   {`cas: ["` + soundPCA + `"], iot_cas: ["arn:aws:iot"]`, "aws.issuer.pca.iot_cas"},
		"days less than none":    {`cas: ["` + soundPCA + `"], max_days: -1`, "aws.issuer.pca.max_days"},
		"no patience":            {`cas: ["` + soundPCA + `"], patience: 0s`, "aws.issuer.pca.patience"},
		"a member it has not":    {`cas: ["` + soundPCA + `"], ca: x`, "ca"},
		"a list that is no list": {`cas: "` + soundPCA + `"`, "cas"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Load(write(t, withPCA(c.pca)), []string{"KEY=secret"}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
	text := strings.Replace(soundAWS, "issuer: {", `issuer: {pca: {cas: ["`+soundPCA+`"]}, `, 1)
	if _, err := Load(write(t, text), []string{"KEY=secret"}); err == nil || !strings.Contains(err.Error(), "for no other") {
		t.Errorf("CAs of ACM PCA beside another issuer: %v", err)
	}
}
