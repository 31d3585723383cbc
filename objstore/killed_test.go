package objstore

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"
)

const (
	killedDir    = "VARVE_TEST_KILLED_DIR" // set in the process that is to be killed
	killedBlocks = 512
	killedBlock  = 8192
)

// killedData is what write number seq puts into a block: every eighth is a repetition that others
// have too.
func killedData(block int, seq uint64) []byte {
	fill := seq
	if seq%8 == 0 {
		fill = 1
	}
	b := bytes.Repeat(randomBytes(fill%1000, 512), killedBlock/512)
	le.PutUint64(b, seq)
	le.PutUint64(b[8:], uint64(block))
	return b
}

// A process is killed with SIGKILL, on real files with a real index: what it has answered is there.
func TestKilledProcess(t *testing.T) {
	if dir := os.Getenv(killedDir); dir != "" {
		killedChild(dir)
		return
	}
	dir := t.TempDir() + "/store"
	must(t, Init(dir, InitOptions{ChunkSize: 4096}))
	s := openTest(t, dir, Options{})
	_, err := s.CreateVolume(context.Background(), "v", VolumeOptions{Size: killedBlocks * killedBlock})
	must(t, err)
	must(t, s.Close())
	acked, last := map[int]uint64{}, uint64(0)
	rounds := max(4, crashCuts(t, 0)/100)
	for round := range rounds {
		last = runAndKill(t, dir, acked, last, time.Duration(50+newRand(uint64(round)).IntN(400))*time.Millisecond)
		s := openTest(t, dir, Options{SettleDelay: -1})
		v, err := s.OpenVolume("v", "test")
		must(t, err)
		extra := 0
		for i := range killedBlocks {
			b := make([]byte, killedBlock)
			_, err := v.ReadAt(b, int64(i)*killedBlock)
			must(t, err)
			seq := le.Uint64(b)
			if seq != acked[i] {
				extra++
				if seq != last+1 || extra > 1 {
					t.Fatalf("round %d: block %d holds write %d; %d was answered, and %d the last of all", round, i, seq, acked[i], last)
				}
				acked[i] = seq
			}
			if seq != 0 && !bytes.Equal(b, killedData(i, seq)) {
				t.Fatalf("round %d: block %d is not what write %d wrote", round, i, seq)
			}
		}
		last += uint64(extra)
		must(t, v.Close())
		must(t, s.Settle(context.Background()))
		must(t, s.Close())
	}
	t.Logf("%d writes", last)
	t.Logf("crash: %d process kills", rounds)
	if last < 20 {
		t.Fatal("hardly anything was written")
	}
}

// runAndKill lets a process write, and notes what it has answered.
func runAndKill(t *testing.T, dir string, acked map[int]uint64, last uint64, after time.Duration) uint64 {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
	cmd.Env = append(os.Environ(), killedDir+"="+dir, fmt.Sprint("VARVE_TEST_KILLED_SEQ=", last))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	killed := false
	for lines.Scan() {
		var block int
		var seq uint64
		if n, _ := fmt.Sscanf(lines.Text(), "ack %d %d", &block, &seq); n != 2 {
			continue
		}
		acked[block], last = seq, seq
		if !killed {
			killed = true
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
	}
	if err := cmd.Wait(); err == nil || !killed {
		t.Fatalf("the process was to be killed: %v", err)
	}
	return last
}

// killedChild writes until it is killed, and says so after each write.
func killedChild(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s, err := Open(context.Background(), dir, Options{SegmentSize: smallestSegment, SettleDelay: 5 * time.Millisecond, TailSoft: 1 << 20})
	fail(err)
	v, err := s.OpenVolume("v", "test")
	fail(err)
	var seq uint64
	_, err = fmt.Sscan(os.Getenv("VARVE_TEST_KILLED_SEQ"), &seq)
	fail(err)
	r := rand.New(rand.NewPCG(seq, 1))
	for {
		seq++
		block := r.IntN(killedBlocks)
		_, err := v.WriteAt(killedData(block, seq), int64(block)*killedBlock)
		fail(err)
		fmt.Printf("ack %d %d\n", block, seq)
		if seq%50 == 0 {
			fail(v.Flush())
		}
	}
}
