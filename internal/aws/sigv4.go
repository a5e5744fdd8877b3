package aws

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	// gatewayService is the name that MQTT over WebSocket is signed for.
	gatewayService = "iotdevicegateway"
	// emptyHash is the SHA-256 of nothing, the payload of the handshake.
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// signMQTT returns the URL on which AWS IoT speaks MQTT over WebSocket with
// whoever holds the credentials. The endpoint's port, if it has one, is not
// signed. Lifetime 0 leaves it to AWS. The URL is a secret.
//
// AWS IoT wants the session token after the signature and not below it, unlike
// every other service, so the SDK does not get to see it.
func signMQTT(ctx context.Context, c awssdk.Credentials, endpoint, region string, now time.Time, lifetime time.Duration) (string, error) {
	signed := &url.URL{Scheme: "wss", Host: endpoint, Path: "/mqtt"}
	if lifetime > 0 {
		signed.RawQuery = url.Values{"X-Amz-Expires": {strconv.Itoa(int(lifetime.Seconds()))}}.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, signed.String(), nil)
	if err != nil {
		return "", fmt.Errorf("sign for %s: %w", endpoint, err)
	}
	request.Host = signed.Hostname()
	token := c.SessionToken
	c.SessionToken = ""
	uri, _, err := v4.NewSigner().PresignHTTP(ctx, c, request, emptyHash, gatewayService, region, now)
	if err != nil {
		return "", fmt.Errorf("sign for %s: %w", endpoint, err)
	}
	if token != "" {
		uri += "&X-Amz-Security-Token=" + url.QueryEscape(token)
	}
	return uri, nil
}
