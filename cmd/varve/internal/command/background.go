package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"varve/cmd/varve/internal/protocol"
	"varve/objstore/vfs"
)

// A command in the background is another process of this program, without --background, in its own
// session. It reports through a pipe, whose descriptor is in the environment, that it is ready or
// why it ends.
const (
	backgroundFlag = "background"
	readyEnv       = "VARVE_READY_FD"
	readyFD        = 3
	readyWord      = "ready"
)

var errNoReason = errors.New("ended without giving a reason")

// openLog opens a log for appending, and creates it if necessary.
func openLog(dir *vfs.Dir, name string) (*os.File, error) {
	return dir.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
}

// startInBackground runs this program with a command line, with its output redirected to a file.
// When the process is ready, startInBackground returns the text of its report. If the process ends
// before that, the error is its reason.
func startInBackground(args []string, output string) (string, error) {
	dir := vfs.OS(filepath.Dir(output))
	defer func() { _ = dir.Close() }() // a handle only
	out, err := openLog(dir, filepath.Base(output))
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Close() }()
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	child := exec.Cmd{
		Path:        "/proc/self/exe", // works even if the program's file has been replaced
		Args:        append([]string{os.Args[0]}, args...),
		Env:         append(os.Environ(), fmt.Sprintf("%s=%d", readyEnv, readyFD)),
		Dir:         "/",
		Stdout:      out,
		Stderr:      out,
		ExtraFiles:  []*os.File{w},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	err = child.Start()
	_ = w.Close()
	if err != nil {
		return "", fmt.Errorf("start in the background: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return "", fmt.Errorf("wait for the process in the background: %w", err)
	}
	text, ready := strings.CutPrefix(string(said), readyWord)
	if ready {
		return strings.TrimSpace(text), child.Process.Release()
	}
	werr := child.Wait()
	if text == "" {
		return "", fmt.Errorf("process in the background: %w: %w", errNoReason, errors.Join(werr))
	}
	return "", errors.New(strings.TrimSpace(text))
}

// withoutBackground returns the command line that runs the same command in the foreground.
func withoutBackground(cmd *cobra.Command) []string {
	return append(append(strings.Fields(cmd.CommandPath())[1:], givenFlags(cmd, backgroundFlag)...), cmd.Flags().Args()...)
}

// givenFlags returns the flags of a command line except one, and always --store.
func givenFlags(cmd *cobra.Command, except string) []string {
	var list []string
	eachGiven(cmd, func(name, value string) {
		if name != except && name != "store" {
			list = append(list, "--"+name+"="+value)
		}
	})
	// As an absolute path: the child has another working directory.
	return append(list, "--store="+cmd.Flag("store").Value.String())
}

// eachGiven calls f for each flag that was given.
func eachGiven(cmd *cobra.Command, f func(name, value string)) {
	cmd.Flags().Visit(func(g *pflag.Flag) {
		if value := g.Value.String(); value != "" || g.Value.Type() != "size" { // an empty size is zero, the default
			f(g.Name, value)
		}
	})
}

// readiness returns two functions that report to the process that started this one in the
// background. They do nothing if there is none.
func readiness() (ready func(*protocol.Upgraded), failed func(error)) {
	say := readyPipe()
	ready = func(u *protocol.Upgraded) {
		text := ""
		if u != nil {
			b, err := json.Marshal(u)
			if err != nil { // a bug: the type can always be marshaled
				panic(err)
			}
			text = string(b)
		}
		say(readyWord + text)
	}
	return ready, func(err error) { say(err.Error()) }
}

// readyPipe returns a function that writes a report. It may be called once.
func readyPipe() func(string) {
	if os.Getenv(readyEnv) != fmt.Sprint(readyFD) {
		return func(string) {}
	}
	_ = os.Unsetenv(readyEnv)
	syscall.CloseOnExec(readyFD)
	f := os.NewFile(readyFD, "ready")
	return func(text string) {
		_, _ = io.WriteString(f, text) // an error means that no process reads the report, which is fine
		_ = f.Close()
	}
}
