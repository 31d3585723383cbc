// Package tally adds up the steps of make test and decides whether they are a success.
//
// A step is either a check that passes or fails as a whole, such as the linter, or a stream of test
// events as `go test -json` and `go tool test2json` write them.
//
// A test may skip only where a stream of another step ran the same test and it passed: what this
// machine's kernel lacks is skipped on it and runs in the test kernel. Any other skip is a failure,
// and so is a stream without tests.
package tally
