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

// ignored are signals that a terminal, a supervisor or a resource limit sends, and that end or stop
// a process by default. The daemon ignores them: processes that wait for its devices would wait
// forever.
var ignored = []os.Signal{
	unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGVTALRM, unix.SIGIO, unix.SIGPWR,
	unix.SIGSTKFLT, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU,
}

// logInterval is how often one ignored signal is logged: if the log's reader is gone, each line
// raises SIGPIPE.
const logInterval = time.Minute

// largestStacks bounds the stacks that SIGQUIT writes, in bytes.
const largestStacks = 16 << 20

// daemonSignals returns a context that SIGINT or SIGTERM cancels; a second one kills the process.
// No other signal ends the daemon: SIGHUP reopens the log, SIGQUIT writes the stacks of all
// goroutines to it. end stops the handling.
func daemonSignals(ctx context.Context, log *slog.Logger, reopen func() (string, error), stderr io.Writer) (_ context.Context, end func()) {
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	others := make(chan os.Signal, 16)
	signal.Notify(others, append([]os.Signal{unix.SIGHUP, unix.SIGQUIT}, ignored...)...)
	quit := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		logged := map[os.Signal]time.Time{}
		first := ctx.Done()
		for {
			select {
			case <-quit:
				return
			case <-first:
				stop() // the second signal kills
				first = nil
			case sig := <-others:
				if last, ok := logged[sig]; ok && sig != unix.SIGHUP && sig != unix.SIGQUIT && time.Since(last) < logInterval {
					continue
				}
				logged[sig] = time.Now()
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
	name := unix.SignalName(sig.(syscall.Signal)) // the type that package signal sends on Linux
	switch sig {
	case unix.SIGHUP:
		path, err := reopen()
		switch {
		case err != nil:
			log.Error("cannot reopen the log; it stays as it is", "signal", name, "error", err)
		case path == "":
			log.Info("the log cannot be reopened: standard error is not a file", "signal", name)
		default:
			log.Info("log reopened", "signal", name, "log", path)
		}
	case unix.SIGQUIT:
		log.Warn("writing the stacks of all goroutines; the daemon continues", "signal", name)
		stacks := make([]byte, 1<<20)
		n := runtime.Stack(stacks, true)
		for n == len(stacks) && n < largestStacks {
			stacks = make([]byte, 2*n)
			n = runtime.Stack(stacks, true)
		}
		fmt.Fprintf(stderr, "%s\n", stacks[:n])
	default:
		log.Warn("signal ignored; SIGTERM and varve stop end the daemon", "signal", name)
	}
}

// logFile is the file that standard error is redirected to.
type logFile struct {
	dir    *vfs.Dir // a handle, as the file may be in a store that is moved
	name   string
	stdout bool // standard output goes there too
}

// standardError returns the file of standard error, or nil if it is not a file that can be
// reopened.
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
	if _, err := dir.Handle(); err != nil { // opens the handle, which follows the directory if it is moved
		return nil
	}
	at1, err := os.Stdout.Stat()
	return &logFile{dir: dir, name: filepath.Base(path), stdout: err == nil && os.SameFile(at1, at2)}
}

// reopen opens the file's path again, which may be another file now, and makes it the standard
// error of the process, including the Go runtime's messages. It returns the path, or "" if standard
// error is not a file.
func (l *logFile) reopen() (string, error) {
	if l == nil {
		return "", nil
	}
	f, err := openLog(l.dir, l.name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // nothing was written through this descriptor
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
