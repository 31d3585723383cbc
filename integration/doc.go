// Package integration holds the tests that need a real device: they drive bin/varve as a user would, on the
// ublk driver of the test kernel (make test builds and boots it), and compare what comes back with what went in.
//
// The tests are built with the tag "integration" and run inside the machine by integration/run. A test owns
// its store, its daemon and its devices (node), has a time limit of its own, and takes everything away at its end.
//
// integration/smp/run is for what the test kernel's one processor cannot show: blockdev's tests of devices with
// two queues, on a distribution's kernel in qemu.
//
// integration/xfstests runs an installed xfstests on varve and on loop devices, and compares.
package integration
