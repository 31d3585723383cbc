package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"varve/objstore/vfs"
)

// ignored are signals that end or stop a process unless it does something about them, and that a terminal, a
// supervisor or a limit sends: what waits for the daemon's devices would wait for ever.
var ignored = []os.Signal{
	unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGVTALRM, unix.SIGIO, unix.SIGPWR,
	unix.SIGSTKFLT, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
}

// sayAgain is how long one that comes again is not spoken of: a log that nobody reads any more makes a SIGPIPE of each
// line.
const sayAgain = time.Minute

// largestStacks bounds what SIGQUIT writes, in bytes.
const largestStacks = 16 << 20

// daemonSignals gives a context that SIGINT and SIGTERM end; the second of them kills. All others leave the daemon
// alive: SIGHUP opens the log anew, SIGQUIT writes the stacks of all goroutines to it. end gives the signals back.
func daemonSignals(ctx context.Context, log *slog.Logger, reopen func() (string, error), stderr io.Writer) (_ context.Context, end func()) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	others := make(chan os.Signal, 16)
	signal.Notify(others, append([]os.Signal{unix.SIGHUP, unix.SIGQUIT}, ignored...)...)
	quit := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		said := map[os.Signal]time.Time{}
		first := ctx.Done()
		for {
			select {
			case <-quit:
				return
			case <-first:
				stop() // the second one kills
				first = nil
			case sig := <-others:
				if last, ok := said[sig]; ok && sig != unix.SIGHUP && sig != unix.SIGQUIT && time.Since(last) < sayAgain {
					continue
				}
				said[sig] = time.Now()
				answerSignal(sig, log, reopen, stderr)
			}
		}
	})
	return ctx, func() {
		signal.Stop(others)
		close(quit)
		running.Wait()
		stop()
	}
}

func answerSignal(sig os.Signal, log *slog.Logger, reopen func() (string, error), stderr io.Writer) {
	name := unix.SignalName(sig.(syscall.Signal)) // as package signal gives it on Linux
	switch sig {
	case unix.SIGHUP:
		path, err := reopen()
		switch {
		case err != nil:
			log.Error("the log was not opened anew and goes on as before", "signal", name, "error", err)
		case path == "":
			log.Info("got a signal to open the log anew, and standard error is no file", "signal", name)
		default:
			log.Info("the log was opened anew", "signal", name, "log", path)
		}
	case unix.SIGQUIT:
		log.Warn("got a signal to show what runs; the daemon goes on", "signal", name)
		stacks := make([]byte, 1<<20)
		n := runtime.Stack(stacks, true)
		for n == len(stacks) && n < largestStacks {
			stacks = make([]byte, 2*n)
			n = runtime.Stack(stacks, true)
		}
		fmt.Fprintf(stderr, "%s\n", stacks[:n])
	default:
		log.Warn("a signal was ignored; SIGTERM and varve stop end the daemon", "signal", name)
	}
}

// logFile is the file that standard error goes to.
type logFile struct {
	dir    *vfs.Dir // it may be in a store that is moved
	name   string
	stdout bool // standard output goes there too
}

// standardError says which file standard error is; nil: none that could be opened anew.
func standardError() *logFile {
	path, err := os.Readlink("/proc/self/fd/2")
	if err != nil {
		return nil
	}
	named, err := os.Stat(path)
	if err != nil || !named.Mode().IsRegular() {
		return nil
	}
	at2, err := os.Stderr.Stat()
	if err != nil || !os.SameFile(named, at2) {
		return nil // removed, or of another root directory
	}
	dir := vfs.OS(filepath.Dir(path))
	if _, err := dir.Handle(); err != nil { // from now on it leads there, wherever the directory goes
		return nil
	}
	at1, err := os.Stdout.Stat()
	return &logFile{dir: dir, name: filepath.Base(path), stdout: err == nil && os.SameFile(at1, at2)}
}

// reopen opens the file's path anew, which may be another file by now, for all that writes to standard error: Go's own
// messages too. It returns the path; "" if standard error is no file.
func (l *logFile) reopen() (string, error) {
	if l == nil {
		return "", nil
	}
	f, err := openLog(l.dir, l.name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // nothing was written to it by this descriptor
	fds := []int{unix.Stderr}
	if l.stdout {
		fds = append(fds, unix.Stdout)
	}
	for _, fd := range fds {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return "", os.NewSyscallError("dup3", err)
		}
	}
	return f.Name(), nil
}
