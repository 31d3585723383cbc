// Package failpoint names the moments at which a test kills the daemon.
//
// In a program that is built with the tag failpoint, VARVE_FAILPOINT=NAME:N kills the process when
// it reaches the named point for the N-th time, like SIGKILL from outside; several points are
// separated by commas. VARVE_FAILPOINT_LOG names a file to which each point is appended when it is
// first reached. VARVE_FAILPOINT_ERROR=NAME:N makes an operation fail N times (errors.go), and
// VARVE_FAILPOINT_HASTE=N divides the time limits that use Limit. In every other program the
// functions are empty, and the compiler leaves no trace of them.
//
// A point names what has just been done; the next step has not begun. Each point is reached at
// exactly one place in the program.
package failpoint

// Point is a moment in the daemon's work, written like "settle.recorded".
type Point string

// Points of the store.
const (
	// Writes, flushes, and the next generation of a journal.
	WriteJournaled Point = "write.journaled" // the record is in the journal, the extent not in the live map
	FlushData      Point = "flush.data"      // data synced, no commit record
	FlushCommit    Point = "flush.commit"    // commit record written, not synced
	FlushDone      Point = "flush.done"      // not answered yet
	JournalFile    Point = "journal.file"    // the draft is there, its header is not durable
	JournalNamed   Point = "journal.named"   // it has its name, and that is not durable
	RollCreated    Point = "roll.created"    // the next journal is durable, nobody writes to it
	RollFrozen     Point = "roll.frozen"
	LogWritten     Point = "log.written" // a frame of refs or of an object log is in one of its files, not synced
	LogSynced      Point = "log.synced"  // synced, without an end mark, and not in the other file

	// Segments that come and go.
	SegmentMade   Point = "segment.made"   // its directory entry is not durable
	SegmentRolled Point = "segment.rolled" // a volume continues in the next one
	ObjectLogMade Point = "objectlog.made" // the object log of a segment, its name not durable
	SealFooter    Point = "seal.footer"    // footer written, the header does not know of it
	SealHeader    Point = "seal.header"    // both durable, the directory is there still
	SealDone      Point = "seal.done"      // the index does not know
	IndexEntered  Point = "index.entered"  // a segment's objects are in the index, which was filled, and not marked
	RetireRemoved Point = "retire.removed" // not durable yet

	// The index is rebuilt.
	ReindexBegun     Point = "reindex.begun"     // the next index is there, and is filled
	ReindexFilled    Point = "reindex.filled"    // it is complete and durable
	ReindexInstalled Point = "reindex.installed" // it is in the place of the other, which is still open

	// Settling; the letters are those of objstore's settling.
	SettleCopied   Point = "settle.copied"   // A: an object written, not synced
	SettleTree     Point = "settle.tree"     // A: all written
	SettleSynced   Point = "settle.synced"   // B
	SettleRecorded Point = "settle.recorded" // C: in one directory, not in the index
	SettleIndexed  Point = "settle.indexed"  // C
	SettleRefs     Point = "settle.refs"     // D
	SettleBase     Point = "settle.base"     // E
	ReclaimJournal Point = "reclaim.journal" // F: the journal is gone, the layer's room is not
	ReclaimPunched Point = "reclaim.punched" // F: room freed, full segments not sealed

	// Collection; the steps are those of objstore's collector.
	CollectBarrier  Point = "collect.barrier"  // settling notes what it refers to, nothing is marked
	CollectMarked   Point = "collect.marked"   // nothing is given up yet
	CollectDrafted  Point = "collect.drafted"  // a segment's shorter object log is durable under the name of a draft
	CollectRecorded Point = "collect.recorded" // it has its name, durably; the footer is there still
	CollectUncover  Point = "collect.uncover"  // the footer is gone, durably; nothing is punched
	CollectPunched  Point = "collect.punched"  // the segment is not sealed again
	CollectIndexed  Point = "collect.indexed"  // the index has none of the dead objects of a segment

	// Names.
	VolumeCreated    Point = "volume.created"
	VolumeDeleted    Point = "volume.deleted"   // its room is not freed
	VolumeDropped    Point = "volume.dropped"   // a journal removed, its room not freed
	SnapshotFrozen   Point = "snapshot.frozen"  // not flushed
	SnapshotFlushed  Point = "snapshot.flushed" // the frozen layers are durable, the name is not
	SnapshotNamed    Point = "snapshot.named"
	SnapshotDeleted  Point = "snapshot.deleted"
	CloneSettled     Point = "clone.settled"  // what a clone begins with, or a rollback keeps, has settled and has no name
	VolumeRenamed    Point = "volume.renamed" // durable, and nobody in this process knows
	SnapshotRenamed  Point = "snapshot.renamed"
	RollbackRecorded Point = "rollback.recorded" // the volume's layers and their journals are there still

	ResizeStored   Point = "resize.stored"   // the tree of the new size is durable, and nothing refers to it
	ResizeRecorded Point = "resize.recorded" // in refs, not in memory

	// Evacuating a segment.
	EvacuateCopied   Point = "evacuate.copied"   // some objects are written, not durable
	EvacuateRecorded Point = "evacuate.recorded" // object logs have them, the index does not
	EvacuateIndexed  Point = "evacuate.indexed"
	EvacuateVacated  Point = "evacuate.vacated"  // all are copied, nothing on disk says that the segment goes
	EvacuateUnlinked Point = "evacuate.unlinked" // a file is gone, not durably
	RetireRecorded   Point = "retire.recorded"   // refs say so, the file is there

	// The superblock: another UUID, or the first use of a feature.
	SuperblockFirst Point = "superblock.first" // the first of its files is durable, the copy is as it was

	// A check.
	CheckVerified Point = "check.verified" // a segment was read, which the record of maintenance may not have yet

	// Closing.
	CloseCommitted Point = "close.committed" // a volume's last commit is durable

	// Opening.
	RecoverRefs      Point = "recover.refs"
	RecoverCompact   Point = "recover.compact"   // the new refs log is durable, and not in its place; the old one has no copy
	RecoverCompacted Point = "recover.compacted" // it is in its place, and has no copy
	RecoverSegments  Point = "recover.segments"
	RecoverIndexed   Point = "recover.indexed"  // it is known what the index has, and the roots are found
	RecoverDropped   Point = "recover.dropped"  // a volume's journals that do not count are removed
	RecoverReplayed  Point = "recover.replayed" // a journal is in memory, its file is as it was
	RecoverWiped     Point = "recover.wiped"    // what does not count in it is zeroes
	RecoverCommit    Point = "recover.commit"   // its final commit is durable, its header is as it was
	RecoverFinished  Point = "recover.finished"
	RecoverJournals  Point = "recover.journals" // all of them
	RecoverEmptied   Point = "recover.emptied"  // the object log of an empty segment is removed, the segment is there
	RecoverSwept     Point = "recover.swept"
)

// Points of devices.
const (
	AttachAdded   Point = "attach.added"   // ADD_DEV
	AttachParams  Point = "attach.params"  // SET_PARAMS
	AttachFetched Point = "attach.fetched" // all queues wait for requests
	AttachStarted Point = "attach.started" // START_DEV
	DetachStopped Point = "detach.stopped" // STOP_DEV
	DetachDeleted Point = "detach.deleted" // DEL_DEV
	QuiesceHeld   Point = "quiesce.held"   // QUIESCE_DEV, and the queues have not ended

	TakeoverStarted Point = "takeover.started" // START_USER_RECOVERY
	TakeoverFetched Point = "takeover.fetched" // all queues wait for requests, which the driver holds back still
	TakeoverEnded   Point = "takeover.ended"   // END_USER_RECOVERY
)

// Points of the daemon.
const (
	AttachOpened Point = "attach.opened" // the volume is open, there is no device
	AttachListed Point = "attach.listed" // in the list on disk, and not answered
	DetachListed Point = "detach.listed" // out of the list on disk
	TakeoverRead Point = "takeover.read" // the list of the earlier daemon is read
	TakeoverDone Point = "takeover.done" // all devices are served, no socket yet

	// An upgrade, in the old daemon,
	UpgradeQuiet    Point = "upgrade.quiet"    // settling has stopped, devices are served
	UpgradeQuiesced Point = "upgrade.quiesced" // devices wait, and nobody serves them
	UpgradeClosed   Point = "upgrade.closed"   // the store is closed
	UpgradeGiven    Point = "upgrade.given"    // lock and socket are sent
	UpgradeEnded    Point = "upgrade.ended"    // the successor says that it serves
	// and in the new one.
	UpgradeReceived  Point = "upgrade.received"  // lock and socket are ours too
	UpgradeOpened    Point = "upgrade.opened"    // the store is open
	UpgradeRecovered Point = "upgrade.recovered" // all devices are served, the old daemon does not know yet
	UpgradeThanked   Point = "upgrade.thanked"   // it does
)

// Points returns all points.
func Points() []Point {
	return []Point{
		WriteJournaled, FlushData, FlushCommit, FlushDone, JournalFile, JournalNamed, RollCreated, RollFrozen,
		LogWritten, LogSynced,
		SegmentMade, SegmentRolled, ObjectLogMade, SealFooter, SealHeader, SealDone, IndexEntered, RetireRemoved,
		ReindexBegun, ReindexFilled, ReindexInstalled,
		SettleCopied, SettleTree, SettleSynced, SettleRecorded, SettleIndexed, SettleRefs, SettleBase, ReclaimJournal, ReclaimPunched,
		CollectBarrier, CollectMarked, CollectDrafted, CollectRecorded, CollectUncover, CollectPunched, CollectIndexed,
		VolumeCreated, VolumeDeleted, VolumeDropped, SnapshotFrozen, SnapshotFlushed, SnapshotNamed, SnapshotDeleted,
		CloneSettled, RollbackRecorded, VolumeRenamed, SnapshotRenamed, ResizeStored, ResizeRecorded, SuperblockFirst, CheckVerified, CloseCommitted,
		EvacuateCopied, EvacuateRecorded, EvacuateIndexed, EvacuateVacated, RetireRecorded, EvacuateUnlinked,
		RecoverRefs, RecoverCompact, RecoverCompacted, RecoverSegments, RecoverIndexed, RecoverDropped, RecoverReplayed, RecoverWiped, RecoverCommit,
		RecoverFinished, RecoverJournals, RecoverEmptied, RecoverSwept,
		AttachAdded, AttachParams, AttachFetched, AttachStarted, DetachStopped, DetachDeleted, QuiesceHeld,
		TakeoverStarted, TakeoverFetched, TakeoverEnded,
		AttachOpened, AttachListed, DetachListed, TakeoverRead, TakeoverDone,
		UpgradeQuiet, UpgradeQuiesced, UpgradeClosed, UpgradeGiven, UpgradeEnded,
		UpgradeReceived, UpgradeOpened, UpgradeRecovered, UpgradeThanked,
	}
}
