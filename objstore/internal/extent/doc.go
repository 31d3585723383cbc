// Package extent maps the sectors of a volume to where their bytes lie: the live map of one layer.
//
// An [Extent] is a run of sectors and the run of sectors in a segment's file that holds them, or a
// hole. A [Map] is ordered and its extents never overlap. What is inserted lies on top: older
// extents are cut, split or replaced, and an extent that continues its left neighbour, in the
// volume and in the file, becomes one with it:
//
//	sector      0       8       16      24
//	before      |---- A, file 100 ------|
//	insert              |-- B --|
//	after       |-- A --|-- B --|-- A --|
//	              100             116
//
// The package is pure: it reads no file, and it takes no lock. The read path looks extents up in a
// Map for each request, and allocates nothing for it.
package extent
