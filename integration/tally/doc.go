// Package tally adds up the steps of make test and decides whether they are a success.
//
// A step is either a check that passes or fails as a whole, such as the linter, or a stream of test
// events as `go test -json` and `go tool test2json` write them.
//
// A test may skip only if it ran and passed in a stream of another step: a test that this machine's
// kernel can't run runs in the test kernel. Any other skip is a failure, and so is a stream without
// tests.
package tally
