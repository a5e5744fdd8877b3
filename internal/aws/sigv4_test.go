package aws

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
)

// The vectors were computed by two other implementations, for the access key
// that AWS's documentation uses.
func TestSignedURL(t *testing.T) {
	const host = "example.iot.us-east-1.amazonaws.com"
	credentials := awssdk.Credentials{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	at := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		endpoint string
		lifetime time.Duration
		token    string
		want     string
	}{
		"a day":            {host, 24 * time.Hour, "", "3ec863617e7e6afa53fc5669c7db4983300818ddc18e72db53c6408d00f60d94"},
		"no lifetime":      {host, 0, "", "efea84de20947750dbb884a21a8f51189f8b920a8445be2c36dd3d7373981b67"},
		"a session":        {host, 0, "to/ken+1==&x", "efea84de20947750dbb884a21a8f51189f8b920a8445be2c36dd3d7373981b67"},
		"another port":     {host + ":8443", 0, "", "efea84de20947750dbb884a21a8f51189f8b920a8445be2c36dd3d7373981b67"},
		"a session, a day": {host, 24 * time.Hour, "t", "3ec863617e7e6afa53fc5669c7db4983300818ddc18e72db53c6408d00f60d94"},
	} {
		credentials.SessionToken = c.token
		signed, err := signMQTT(context.Background(), credentials, c.endpoint, "us-east-1", at, c.lifetime)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(signed)
		if err != nil {
			t.Fatal(err)
		}
		query := u.Query()
		if query.Get("X-Amz-Signature") != c.want || query.Get("X-Amz-Security-Token") != c.token || query.Get("X-Amz-SignedHeaders") != "host" {
			t.Errorf("%s: %s", name, signed)
		}
		if u.Scheme != "wss" || u.Host != c.endpoint || u.Path != "/mqtt" {
			t.Errorf("%s: %s", name, signed)
		}
		// After the signature, or AWS IoT refuses it.
		if i := strings.Index(signed, "&X-Amz-Security-Token="); (c.token == "") != (i < 0) || i >= 0 && i < strings.Index(signed, "X-Amz-Signature=") {
			t.Errorf("%s: token at %d of %s", name, i, signed)
		}
	}
}
