package main

import "time"

// test is one line of the list. Its environment may name {cuts}, {fscuts}, {rounds} and {seed}, the
// options.
type test struct {
	name    string
	machine bool   // in the test kernel; else on this machine
	pkg     string // with its tests
	run     string // regular expression of go test -run
	env     []string
	limit   time.Duration
}

// tests are the long ones. Those on this machine take no root and no kernel.
var tests = []test{
	{"engine: random histories", false, "./objstore", "^(TestCrashLong|TestCollectLong|TestCollectAlong|TestKilledProcess|TestKilledAtEveryPoint)$", []string{"VARVE_CRASH_CUTS={cuts}", "VARVE_CRASH_SEED={seed}"}, 2 * time.Hour},
	{"engine: every operation", false, "./objstore", "^(TestEveryCut|TestEveryCutOfRecovery|TestEveryMoment)$", []string{"VARVE_CRASH_CUTS={cuts}", "VARVE_CRASH_SEED={seed}"}, 2 * time.Hour},
	{"engine: damaged files", false, "./objstore", "^TestEveryDamage$", []string{"VARVE_CRASH_CUTS=1"}, 2 * time.Hour},
	{"engine: faults, full disks, flips", false, "./objstore", "^(TestEveryFault|TestFault.*|TestFull.*|TestEveryFlip)$", []string{"VARVE_CRASH_CUTS=2000", "VARVE_CRASH_SEED={seed}"}, 2 * time.Hour},
	{"engine: linearizable", false, "./objstore", "^(TestLinearizable|TestLinearizableKilled)$", []string{"VARVE_CRASH_CUTS=20000", "VARVE_CRASH_SEED={seed}"}, time.Hour},
	{"engine: race detector", false, "./objstore", "^(TestKilledProcess|TestEvery.*|TestFuzzlike|TestFullLong|TestFaultLong|TestRelogLong|TestRotLong|TestCollectLong|TestRefsCopyCut|TestFailedOpeningClosesFiles|TestContextEndsOpening|TestDeepTree|TestLongJournal)$", []string{"GOFLAGS=-race", "CGO_ENABLED=1"}, 2 * time.Hour},
	{"filesystems: cuts of the log", true, "./integration", "^TestPowerCut$", []string{"VARVE_CRASH_FS_CUTS={fscuts}", "VARVE_CRASH_SEED={seed}"}, 2 * time.Hour},
	{"bad disks", true, "./integration", "^(TestDisk.*|TestBadSectors)$", []string{"VARVE_CRASH_BAD_DISKS=10"}, time.Hour},
	{"mirrors", true, "./integration", "^TestMirror", []string{"VARVE_CRASH_MIRROR_KILLS=20", "VARVE_CRASH_MIRROR_CUTS=20"}, time.Hour},
	{"full disks", true, "./integration", "^(TestFullDisk|TestMaxSize)$", []string{"VARVE_CRASH_CUTS=1"}, time.Hour},
	{"memory pressure", true, "./integration", "^TestPressure", []string{"VARVE_PRESSURE_MIB=640"}, time.Hour},
	{"devices: killed at named points", true, "./integration", "^TestKillAtPoints$", []string{"VARVE_CRASH_KILLS=6", "VARVE_CRASH_SEED={seed}"}, 3 * time.Hour},
	{"devices: upgrades under load", true, "./integration", "^TestUpgradeUnderLoad$", []string{"VARVE_CRASH_UPGRADES={rounds}"}, time.Hour},
	{"devices: linearizable under kills", true, "./integration", "^TestLinearizableUnderKills$", []string{"VARVE_CRASH_LINEAR_KILLS=60", "VARVE_CRASH_SEED={seed}"}, time.Hour},
}
