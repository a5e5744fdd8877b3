package aws

import (
	"fmt"
	"time"
)

// The table of presence has an item for each connection that a device has made,
// so that none takes the place of another, whatever the order in which AWS
// tells of them: presenceDevice, and presenceSeen, which begins with the
// milliseconds of the event and ends with the certificate. Refusals are beside
// them, one for each certificate.
const (
	presenceDevice  = "device"
	presenceSeen    = "seen"
	presenceAt      = "at"
	presenceExpires = "expires"
	refusedPrefix   = "refused-" // of presenceSeen: sorts behind every time
)

// presenceKept is how long an item is kept: rotations are stale long before.
const presenceKept = 90 * 24 * time.Hour

// PresenceTable returns the name of an owner's table of presence.
func PresenceTable(owner string) string { return writable(owner, '-') + "-presence" }

func (n names) table(name string) string { return n.of("dynamodb", "table/"+name) }

// The statements that write the table. A device is the thing whose alone the
// certificate is, or else the first level of the client id, as readPresence has
// it. Only certificates count: other identities are no device's.
var (
	connectedSQL = presenceSQL("concat(timestamp, '-', principalIdentifier)", "$aws/events/presence/connected/#")
	refusedSQL   = presenceSQL("concat('"+refusedPrefix+"', principalIdentifier)", "$aws/events/presence/connect_failed/#")
)

func presenceSQL(seen, filter string) string {
	return fmt.Sprintf("SELECT CASE isUndefined(thingName) WHEN true THEN regexp_substr(clientId, '^[^/]+') ELSE thingName END AS %s, "+
		"%s AS %s, principalIdentifier AS certificate, timestamp AS %s, clientId AS client, "+
		"floor(timestamp / 1000) + %d AS %s FROM '%s' WHERE regexp_matches(principalIdentifier, '^[0-9a-f]{64}$')",
		presenceDevice, seen, presenceSeen, presenceAt, int64(presenceKept/time.Second), presenceExpires, filter)
}
