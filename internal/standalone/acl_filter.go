package standalone

import "strings"

// validTopic reports whether a message can be published on the topic.
func validTopic(topic string) bool {
	return validFilter(topic) && !strings.ContainsAny(topic, "+#")
}

// validFilter is stricter than the library, which takes "a+b" and "a#" for
// names.
func validFilter(filter string) bool {
	if filter == "" || len(filter) > maxTopicOctets || strings.Count(filter, "/") >= maxTopicLevels || strings.ContainsRune(filter, 0) {
		return false
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case level == "+", level == "#" && i == len(levels)-1:
		case strings.ContainsAny(level, "+#"):
			return false
		}
	}
	return true
}

// covers reports whether everything that filter matches is matched by pattern.
// A filter may be a topic, which matches itself.
func covers(pattern, filter string) bool {
	p, f := strings.Split(pattern, "/"), strings.Split(filter, "/")
	if strings.HasPrefix(filter, "$") && p[0] != f[0] {
		return false // a wildcard does not match topics that start with $ (MQTT 3.1.1, 4.7.2)
	}
	for i, level := range p {
		switch {
		case level == "#":
			return true
		case i == len(f), f[i] == "#", level != "+" && level != f[i]:
			return false
		}
	}
	return len(p) == len(f)
}

// overlap reports whether a topic exists that both filters match.
func overlap(a, b string) bool {
	p, q := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(p), len(q)) {
		switch {
		case p[i] == "#", q[i] == "#":
			return true
		case p[i] != "+" && q[i] != "+" && p[i] != q[i]:
			return false
		}
	}
	// One that goes on matches the other's end only with "#", which matches
	// its parent level too.
	longer := p
	if len(q) > len(p) {
		longer = q
	}
	n := min(len(p), len(q))
	return len(longer) == n || longer[n] == "#"
}
