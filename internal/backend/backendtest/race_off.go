//go:build !race

package backendtest

// RaceDetector says that everything takes ten times as long: what only repeats
// itself is sampled then. The gate runs the whole examination without it too.
const RaceDetector = false
