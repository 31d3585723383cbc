// Command crash tries to lose data, for as long as it is told to. make crash runs it.
//
//	crash [-cuts N] [-fs-cuts N] [-rounds N] [-seed N] [-only REGEXP] [-o DIR] [-list]
//
// It runs the long tests of the list in tests.go, each with the VARVE_CRASH_ variables that it
// reads. Then it kills the test kernel as a host process while filesystems work on a store on its
// disk, boots it again and verifies the store (kill.go on the host, guest.go in the machine). Logs
// go to DIR. It ends with a table of what was tried and of what failed, with seeds; the exit status
// is 1 if anything failed.
//
// A test reports a figure for the table by a line of its log: "crash: 1234 cuts". The word names
// the column.
//
// To add a test, add a line to the list in tests.go.
package main
