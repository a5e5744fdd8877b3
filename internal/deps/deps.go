// Package deps holds the rules of who may import whom, as a test. It has no
// code: read deps_test.go.
package deps
