package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/certvendor/certvendor/registry"
)

// assetMedia is the media type of the Asset Library's API.
const assetMedia = "application/vnd.aws-cdf-v1.0+json"

const (
	assetTime = 10 * time.Second
	assetMost = 1 << 20 // octets of an answer
)

// AssetLibrary says how the Asset Library of the Connected Device Framework is
// reached: by the URL of its API, or by the name of its function.
type AssetLibrary struct {
	URL      string
	Function string
	Headers  map[string]string // besides those of the media type
	// Attribute is the one that is written: a template of the Asset Library
	// refuses those that it does not know. Empty: none is.
	Attribute string
	// HTTP carries the requests to the URL, where given; otherwise one of its
	// own.
	HTTP *http.Client
}

// assets is the Asset Library as a source.
type assets struct {
	config AssetLibrary
	aws    awssdk.Config
	lambda *lambda.Client
	client *http.Client
	now    func() time.Time
}

// assetAnswer is what came back, whichever way.
type assetAnswer struct {
	StatusCode int    `json:"statusCode"`
	Body       string `json:"body"`
}

// look decides by the status alone: 404 is unknown, 2xx is known, and
// everything else is no answer.
func (a assets) look(ctx context.Context, id registry.DeviceID) (map[string]string, error) {
	answer, err := a.ask(ctx, http.MethodGet, id, nil)
	if err != nil {
		return nil, err
	}
	var device struct {
		Attributes map[string]any `json:"attributes"`
	}
	if err := json.Unmarshal([]byte(answer.Body), &device); err != nil {
		return nil, fmt.Errorf("asset library: device %s: its document is not JSON", id)
	}
	attributes := map[string]string{}
	for name, value := range device.Attributes {
		if text, is := value.(string); is && text != "" {
			attributes[name] = text
		}
	}
	return attributes, nil
}

func (a assets) write(ctx context.Context, id registry.DeviceID, attributes map[string]string) error {
	text, some := attributes[a.config.Attribute]
	if !some {
		return nil
	}
	body, err := json.Marshal(map[string]any{"attributes": map[string]string{a.config.Attribute: text}})
	if err != nil {
		return err
	}
	_, err = a.ask(ctx, http.MethodPatch, id, body)
	return err
}

func (a assets) ask(ctx context.Context, method string, id registry.DeviceID, body []byte) (assetAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, assetTime)
	defer cancel()
	path := "/devices/" + url.PathEscape(string(id))
	answer, err := a.invoke(ctx, method, path, body)
	switch {
	case err != nil:
		return answer, fmt.Errorf("asset library: device %s: %w", id, err)
	case answer.StatusCode == http.StatusNotFound:
		return answer, fmt.Errorf("asset library: device %s: %w", id, registry.ErrUnknown)
	case answer.StatusCode == http.StatusBadRequest && method == http.MethodPatch:
		return answer, fmt.Errorf("asset library: device %s: %w: status 400", id, errNotTaken)
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return answer, fmt.Errorf("asset library: device %s: status %d", id, answer.StatusCode)
	}
	return answer, nil
}

func (a assets) invoke(ctx context.Context, method, path string, body []byte) (assetAnswer, error) {
	if a.config.Function != "" {
		return a.byFunction(ctx, method, path, body)
	}
	return a.byURL(ctx, method, path, body)
}

func (a assets) headers() map[string]string {
	all := map[string]string{"Accept": assetMedia, "Content-Type": assetMedia}
	maps.Copy(all, a.config.Headers)
	return all
}

// byFunction invokes the function with the event that API Gateway would make.
func (a assets) byFunction(ctx context.Context, method, path string, body []byte) (assetAnswer, error) {
	event := map[string]any{
		"resource": "/{proxy+}", "path": path, "pathParameters": map[string]string{"path": path},
		"httpMethod": method, "headers": a.headers(),
		"queryStringParameters": map[string]string{}, "multiValueQueryStringParameters": nil, "body": nil,
	}
	if body != nil {
		event["body"] = string(body)
	}
	payload, err := json.Marshal(event)
	if err != nil {
		return assetAnswer{}, err
	}
	out, err := a.lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: &a.config.Function, Payload: payload})
	if err != nil {
		return assetAnswer{}, err
	}
	if out.FunctionError != nil {
		return assetAnswer{}, errors.New("the function has failed")
	}
	var answer assetAnswer
	if err := json.Unmarshal(out.Payload, &answer); err != nil {
		return assetAnswer{}, errors.New("the function's answer is not that of an API")
	}
	return answer, nil
}

// byURL asks over HTTPS. What is lost, throttled or failed there is asked again as
// the SDK would: both methods are idempotent.
func (a assets) byURL(ctx context.Context, method, path string, body []byte) (assetAnswer, error) {
	retry := a.aws.Retryer()
	for attempt := 1; ; attempt++ {
		answer, err := a.signed(ctx, method, path, body)
		passes := err != nil || answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= http.StatusInternalServerError
		if !passes || attempt >= retry.MaxAttempts() {
			return answer, err
		}
		pause, late := retry.RetryDelay(attempt, err)
		if sleep(ctx, pause); late != nil || ctx.Err() != nil {
			return answer, err
		}
	}
}

// signed asks once, signed as API Gateway wants it.
func (a assets) signed(ctx context.Context, method, path string, body []byte) (assetAnswer, error) {
	request, err := http.NewRequestWithContext(ctx, method, a.config.URL+path, bytes.NewReader(body))
	if err != nil {
		return assetAnswer{}, err
	}
	for name, text := range a.headers() {
		request.Header.Set(name, text)
	}
	own, err := a.aws.Credentials.Retrieve(ctx)
	if err != nil {
		return assetAnswer{}, fmt.Errorf("credentials: %w", err)
	}
	sum := sha256.Sum256(body)
	if err := v4.NewSigner().SignHTTP(ctx, own, request, hex.EncodeToString(sum[:]), "execute-api", a.aws.Region, a.now()); err != nil {
		return assetAnswer{}, err
	}
	answer, err := a.client.Do(request)
	if err != nil {
		return assetAnswer{}, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, assetMost))
	return assetAnswer{answer.StatusCode, string(text)}, err
}
