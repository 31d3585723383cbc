// Command bench measures varve against the block devices that its users run today, in one boot of
// the test kernel, and draws the result.
//
//	measure    sets every contender up on one tmpfs, runs fio on them in turn, writes results.json
//	watch      records from outside how much processor time the test kernel gets
//	report     joins the two, and writes results.md and results.png
//	claims     draws figures of zero copy against copy that report has kept
//	rings      compares varve's ring with giouring's, from the output of uring's benchmarks
//	memory     fills a large volume and prints how much memory its store takes
//	clone      clones a snapshot of a large volume, and clones of clones, reads them, and rolls back
//	counts     counts the references of a large store, and tries what deleting a part would free
//	collect    marks and sweeps a large store, of which an eighth is dead
//	reclaim    measures how much space comes back on each file system, and what is written for it
//	beside     compares I/O beside a collection with I/O without one
//	attach     clones a snapshot and attaches the clones, a hundred at once
//	kernel-build   builds a kernel on ext4 on a volume and on a loop device, and compares all files
//	kernel-report  prints how long that took
//	diff       changes chunks all over a large volume and compares it with a snapshot from before
//
// A contender is one way to get a block device: a varve volume, a varve target, kublk, the kernel's
// loop, dm-thin, dm-vdo. A step is a kind of fio run: direction, block size, depth. A sample is the
// result of one fio run. In a round every contender is set up from nothing and takes every step,
// the contenders one after the other within a step; the report shows the median over the rounds. A
// sample is taken again if the machine was busy with something else meanwhile, which shows in a
// fixed piece of arithmetic that takes longer than usual.
//
// integration/bench/run starts it; integration/bench/collect starts reclaim, beside and attach.
package main
