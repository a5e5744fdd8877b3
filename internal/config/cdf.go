package config

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Imported is a configuration of the CDF Certificate Vendor as one of certvendor.
type Imported struct {
	YAML  string   // what differs from the defaults, with a comment where people should look
	Notes []string // what was not taken over, and why, by the original's name
}

// ImportCDF reads the environment of the CDF Certificate Vendor, as its
// installer writes it: a line KEY=VALUE each, in quotes or not. A line that is
// none of that is an error. Keys that are not known are noted.
func ImportCDF(text string) (Imported, error) {
	env, err := dotenv(text)
	if err != nil {
		return Imported{}, err
	}
	m := &migration{env: env, used: map[string]bool{}, values: map[string]string{}, comments: map[string]string{}}
	m.set("backend", "aws")
	m.account()
	m.topics()
	m.rules()
	m.issuer()
	m.registry()
	m.rest()
	for _, key := range slices.Sorted(maps.Keys(env)) {
		if !m.used[key] {
			m.note(key, "is not known")
		}
	}
	return Imported{m.yaml(), m.notes}, nil
}

func dotenv(text string) (map[string]string, error) {
	env := map[string]string{}
	lines := bufio.NewScanner(strings.NewReader(text))
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "" || strings.ContainsAny(key, " \t\"'") {
			return nil, fmt.Errorf("line %d: must be KEY=VALUE", number)
		}
		for _, quote := range []string{`"`, `'`} {
			if len(value) >= 2 && strings.HasPrefix(value, quote) && strings.HasSuffix(value, quote) {
				value = value[1 : len(value)-1]
			}
		}
		env[key] = value
	}
	return env, lines.Err()
}

// migration takes one key after the other.
type migration struct {
	env      map[string]string
	used     map[string]bool
	values   map[string]string // YAML by the key's path
	comments map[string]string
	notes    []string
}

// take returns the value of a key of the original; empty is as if it were not
// there.
func (m *migration) take(key string) string {
	m.used[key] = true
	return m.env[key]
}

func (m *migration) set(path, value string) { m.values[path] = strconv.Quote(value) }

func (m *migration) comment(path, text string) { m.comments[path] = text }

func (m *migration) note(key, why string) { m.notes = append(m.notes, key+" "+why) }

// copy sets what has the same meaning in both.
func (m *migration) copy(path, key string) {
	if value := m.take(key); value != "" {
		m.set(path, value)
	}
}

// number sets a whole number with a unit behind it.
func (m *migration) number(path, key, format string, times int) {
	value := m.take(key)
	if value == "" {
		return
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > 100_000 {
		m.note(key, "is no number that makes sense")
		return
	}
	m.values[path] = fmt.Sprintf(format, n*times)
}

func (m *migration) account() {
	m.copy("aws.region", "AWS_REGION")
	m.copy("aws.broker.endpoint", "AWS_IOT_ENDPOINT")
	m.set("aws.broker.identity", "direct")
	m.comment("aws.broker.identity", "serves the original's firmware as it is; `rule` knows who speaks, and retires more: docs/aws.md")
	m.copy("aws.packages.bucket", "AWS_S3_CERTIFICATES_BUCKET")
	m.copy("aws.packages.prefix", "AWS_S3_CERTIFICATES_PREFIX")
	m.copy("aws.packages.suffix", "AWS_S3_CERTIFICATES_SUFFIX")
	m.number("vending.link_ttl", "AWS_S3_CERTIFICATES_PRESIGNEDURL_EXPIRESINSECONDS", "%ds", 1)
	m.take("AWS_ACCOUNTID") // AWS is asked
}

func (m *migration) topics() {
	for key, path := range map[string]string{
		"MQTT_TOPICS_GET_ROOT": "get", "MQTT_TOPICS_GET_SUCCESS": "get_accepted", "MQTT_TOPICS_GET_FAILURE": "get_rejected",
		"MQTT_TOPICS_ACK_ROOT": "ack", "MQTT_TOPICS_ACK_SUCCESS": "ack_accepted", "MQTT_TOPICS_ACK_FAILURE": "ack_rejected",
	} {
		if value := m.take(key); value != "" {
			m.set("mqtt.topics."+path, strings.Replace(value, "+", "{thingName}", 1))
		}
	}
}

func (m *migration) rules() {
	m.copy("rotation.group", "AWS_IOT_THINGGROUP_ROTATECERTIFICATES")
	m.set("rotation.previous", "keep")
	m.comment("rotation.previous", "the original leaves the old certificate ACTIVE; `deactivate` is certvendor's default")
	if m.take("FEATURES_DELETEPREVIOUSCERTIFICATE") == "true" {
		m.set("rotation.previous", "delete")
		m.comment("rotation.previous", "deactivated first, and only once the device was seen on its new one")
	}
	m.set("policy.mode", "inherit")
	if m.take("USE_DEFAULT_POLICY") == "true" {
		m.set("policy.mode", "default")
	}
	m.copy("policy.default", "POLICIES_ROTATEDCERTIFICATEPOLICY")
	m.number("vending.validity", "DEFAULTS_CERTIFICATES_CERTIFICATEEXPIRYDAYS", "%dh", 24)
}

func (m *migration) issuer() {
	m.copy("aws.issuer.ca", "CERTIFICATES_CACERTIFICATEID")
	first, algorithm, role := m.take("ACMPCA_CA_ARN"), m.take("ACMPCA_SIGNING_ALGORITHM"), m.take("ACM_PCA_CROSS_ACCOUNT_ROLE_ARN")
	cas, iot := m.aliases("PCA_"), m.aliases("CA_")
	named := slices.IndexFunc(cas, func(ca string) bool { return strings.HasSuffix(ca, "="+first) })
	switch {
	case first == "":
	case named >= 0: // it has an alias, and signs where none is asked for
		cas[0], cas[named] = cas[named], cas[0]
	default:
		cas = append([]string{first}, cas...)
	}
	region := m.take("ACM_REGION")
	if m.take("ACMPCA_ENABLED") != "true" {
		if len(cas)+len(iot) > 0 {
			m.note("ACMPCA_ENABLED", "is not true: the CAs of ACM Private CA, and aliases, are left out")
		}
		return
	}
	if region != "" && region != m.env["AWS_REGION"] && !strings.Contains(first, ":"+region+":") {
		m.note("ACM_REGION", "is not the region in the CA's ARN, which counts here")
	}
	m.set("aws.issuer.kind", "pca")
	delete(m.values, "aws.issuer.ca")
	m.list("aws.issuer.pca.cas", cas)
	m.list("aws.issuer.pca.iot_cas", iot)
	if algorithm != "" {
		m.set("aws.issuer.pca.algorithm", algorithm)
	}
	if role != "" {
		m.set("aws.issuer.pca.role", role)
	}
}

// aliases returns what the keys with a prefix name, as alias=CA. A CA has one
// alias here.
func (m *migration) aliases(prefix string) (all []string) {
	known := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(m.env)) {
		alias, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		ca := m.take(key)
		if known[ca] {
			m.note(key, "is a second alias of one CA: firmware that asks for it needs another")
			continue
		}
		known[ca] = true
		all = append(all, alias+"="+ca)
	}
	return all
}

func (m *migration) list(path string, all []string) {
	if len(all) == 0 {
		return
	}
	quoted := make([]string, len(all))
	for i, one := range all {
		quoted[i] = strconv.Quote(one)
	}
	m.values[path] = "[" + strings.Join(quoted, ", ") + "]"
}

func (m *migration) registry() {
	function, base, headers := m.take("ASSETLIBRARY_API_FUNCTION_NAME"), m.take("ASSETLIBRARY_BASE_URL"), m.take("ASSETLIBRARY_HEADERS")
	byLambda := m.take("ASSETLIBRARY_MODE") == "lambda" || m.env["ASSETLIBRARY_MODE"] == ""
	switch mode := m.take("REGISTRY_MODE"); mode {
	case "DeviceRegistry":
		return
	case "AssetLibrary":
	default:
		m.set("aws.registry", "none")
		m.comment("aws.registry", fmt.Sprintf("REGISTRY_MODE=%.40s lets every device in, in the original too; `things` asks the Device Registry", mode))
		return
	}
	m.set("aws.registry", "asset-library")
	if byLambda {
		m.set("aws.asset_library.function", function)
	} else {
		m.set("aws.asset_library.url", base)
	}
	m.headers(headers)
}

func (m *migration) headers(text string) {
	if text == "" {
		return
	}
	var all map[string]string
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		m.note("ASSETLIBRARY_HEADERS", "is no JSON object of texts")
		return
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		lines = append(lines, name+": "+all[name])
	}
	m.list("aws.asset_library.headers", lines)
}

// levels of the original's log that have another name here.
var levels = map[string]string{"verbose": "debug", "silly": "debug"}

func (m *migration) rest() {
	level := m.take("LOGGING_LEVEL")
	if other, ok := levels[level]; ok {
		level = other
	}
	if level != "" {
		m.set("log.level", level)
	}
	key, value := m.take("DEFAULTS_DEVICE_STATUS_SUCCESS_KEY"), m.take("DEFAULTS_DEVICE_STATUS_SUCCESS_VALUE")
	if key != "" && value != "" {
		m.set("rotation.status.name", key)
		m.set("rotation.status.value", value)
	} else if key != "" || value != "" {
		m.note("DEFAULTS_DEVICE_STATUS_SUCCESS_KEY", "and _VALUE belong together: rotation.status is status and active")
	}
	m.take("PROVISIONING_MODE") // the original does not use them either
	m.take("COMMANDANDCONTROL_MODE")
}

// yaml writes the values as a file, the keys of a section together.
func (m *migration) yaml() string {
	var b strings.Builder
	var open []string
	for _, path := range slices.Sorted(maps.Keys(m.values)) {
		levels := strings.Split(path, ".")
		same := 0
		for same < len(levels)-1 && same < len(open) && levels[same] == open[same] {
			same++
		}
		for i := same; i < len(levels)-1; i++ {
			fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), levels[i])
		}
		open = levels[:len(levels)-1]
		indent := strings.Repeat("  ", len(open))
		if text := m.comments[path]; text != "" {
			fmt.Fprintf(&b, "%s# %s\n", indent, text)
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, levels[len(levels)-1], m.values[path])
	}
	return b.String()
}
