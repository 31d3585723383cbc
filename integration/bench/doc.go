// Command bench measures varve against the block devices that its users run today, in one boot of
// the test kernel, and draws the result.
//
//	measure    sets every contender up on one tmpfs, runs fio on them in turn, writes results.json
//	watch      notes from outside how much processor time the test kernel gets
//	report     joins the two, and writes results.md and results.png
//	rings      shows varve's ring beside giouring's, from the output of uring's benchmarks
//	memory     fills a large volume and says how much memory its store takes
//
// A contender is one way to get a block device: a varve volume, a varve target, kublk, the kernel's
// loop, dm-thin, dm-vdo. A step is one fio run: direction, block size, depth. A sample is what one
// fio run gave. In a round every contender is made anew and takes every step, contenders side by
// side within a step; what is shown is the median over the rounds. A sample during which the
// machine was busy with something else, seen by a fixed piece of arithmetic that took longer than
// usual, is taken again.
//
// integration/bench/run is the way to start it.
package main
