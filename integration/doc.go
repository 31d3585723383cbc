// Package integration contains the tests that need a real device: they run bin/varve as a user
// would, on the ublk driver of the test kernel (make test builds and boots it), and compare what is
// read with what was written.
//
// The tests have the build tag "integration" and run in the test kernel, by integration/run. A test
// owns its store, its daemon and its devices (see node), has its own time limit, and removes
// everything at its end.
//
// integration/smp/run is for tests that need more than the test kernel's one processor: blockdev's
// tests of devices with two queues, on a distribution's kernel in qemu.
//
// integration/xfstests runs an installed xfstests on varve and on loop devices, and compares the
// results.
package integration
