package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
)

// ownerTag is the tag of everything that is made at AWS; its value is the
// client id of the daemon that it was made for.
const ownerTag = "certvendor"

// account is what all parts of a Setup share.
type account struct {
	clients *Clients
	names   names
	owner   string
}

// iotTags are the tags of what is made in AWS IoT for an owner.
func iotTags(owner string) []types.Tag {
	if owner == "" {
		return nil
	}
	return []types.Tag{{Key: new(ownerTag), Value: &owner}}
}

// ownsIoT reports whether something of AWS IoT was made for this daemon.
func (a account) ownsIoT(ctx context.Context, arn string) (bool, error) {
	pages := iot.NewListTagsForResourcePaginator(a.clients.IoT, &iot.ListTagsForResourceInput{ResourceArn: &arn})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if isNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("list the tags of %s: %w", arn, err)
		}
		for _, t := range page.Tags {
			if deref(t.Key) == ownerTag {
				return deref(t.Value) == a.owner, nil
			}
		}
	}
	return false, nil
}

// untagged says why something is left, or cannot be used.
func (a account) untagged() string {
	return fmt.Sprintf("it does not carry the tag %s=%s", ownerTag, a.owner)
}

// removal returns what becomes of something when what is ours is taken away.
func (a account) removal(r Resource, there, ours bool) []Step {
	switch {
	case !there:
		return nil
	case !ours:
		return []Step{step(r, DoLeave, a.untagged())}
	}
	return []Step{step(r, DoDelete)}
}

// step makes a Step.
func step(r Resource, do Do, why ...string) Step {
	return Step{Resource: r, Do: do, Why: strings.Join(why, ", ")}
}

// differing returns what to do about something that is there: nothing, or to
// bring up to date what is named.
func differing(r Resource, what []string) Step {
	if len(what) == 0 {
		return step(r, DoKeep)
	}
	return step(r, DoUpdate, what...)
}

// sameJSON reports whether two texts are the same JSON. IAM encodes what it
// returns as a part of a URL (RFC 3986).
func sameJSON(encoded, own string) bool {
	text, err := url.PathUnescape(encoded)
	if err != nil {
		return false
	}
	var there, want any
	if json.Unmarshal([]byte(text), &there) != nil || json.Unmarshal([]byte(own), &want) != nil {
		return false
	}
	return reflect.DeepEqual(there, want)
}

// writable turns a client id into a name of letters, digits and one other sign.
func writable(owner string, sign rune) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return r
		}
		return sign
	}, owner)
}
