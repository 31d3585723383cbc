// Package maintenance keeps what a store remembers of its own upkeep: how often it is to be
// scrubbed and how fast, which segments were verified when, how far an unfinished check has come,
// and what became of the last scrub and the last collection.
//
// None of it is needed to read the store. A store without the file is scrubbed from the beginning,
// and only its settings are lost. So the file is not part of refs: an older varve ignores it, and
// setting a schedule does not keep one from opening the store.
//
// The file is replaced as a whole, by way of a draft (disk.ReplaceFile). A second copy is written
// when the settings change, so that a flipped bit does not lose them. All integers are
// little-endian, times are seconds of Unix time, 0 for none:
//
//	  0  magic "varveMT\0"
//	  8  version u32: 1
//	 12  length of the file u32, bytes
//	 16  store UUID, 16 bytes
//	 32  scrub every u64, seconds; 0: no schedule
//	 40  scrub rate u64, bytes/s; 0: no limit
//	 48  collection rate u64, bytes/s; 0: the default, 2^63-1: no limit
//	 56  round u32: the number of the newest check
//	 60  flags u32: 1, the newest round is a check of everything, and has not come to its end;
//	     2, the schedule began it
//	 64  unfinished check: begun i64
//	 72                    bytes verified u64
//	 80  uptime u64, seconds: how long the store was open since the last scrub ended
//	 88  last scrub: begun i64
//	 96              ended i64
//	104              bytes verified u64
//	112              damages found u32
//	116  number of runs u32
//	120  last collection: begun i64
//	128                   ended i64
//	136                   bytes freed u64
//	144  runs, 24 bytes each, in order of segments
//	...  CRC-32C of all before; at the end in every version
//
// A run is a range of segments that were verified in one round, at about the same time:
//
//	 0  first segment u32
//	 4  last segment u32
//	 8  round u32
//	12  flags u32: 1, damage was found in it
//	16  verified at i64: the earliest of them
//
// A run may reach over segments that are no more. Their IDs are not used again.
package maintenance
