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

// A command in the background is this program once more, without --background, in a session of its own. It says
// over a pipe, whose number is in the environment, that it is ready, or why it ends.
const (
	backgroundFlag = "background"
	readyEnv       = "VARVE_READY_FD"
	readyFD        = 3
	readyWord      = "ready"
)

var errNoReason = errors.New("ended without a reason")

// openLog opens a log to write at its end, and makes it if need be.
func openLog(dir *vfs.Dir, name string) (*os.File, error) {
	return dir.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE)
}

// startInBackground runs this program with a command line, its output going to the file, and returns when it is
// ready, with what it has to say (Ready's text). An error is the reason why it ended.
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
		Path:        "/proc/self/exe", // also when the file was replaced meanwhile
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

// withoutBackground is the command line of the same command in the foreground.
func withoutBackground(cmd *cobra.Command) []string {
	return append(append(strings.Fields(cmd.CommandPath())[1:], givenFlags(cmd, backgroundFlag)...), cmd.Flags().Args()...)
}

// givenFlags are the flags of a command line but for one, and the store.
func givenFlags(cmd *cobra.Command, but string) []string {
	var list []string
	eachGiven(cmd, func(name, value string) {
		if name != but && name != "store" {
			list = append(list, "--"+name+"="+value)
		}
	})
	// Always, and as the absolute path that it has become: the child has another working directory.
	return append(list, "--store="+cmd.Flag("store").Value.String())
}

// eachGiven calls f for the flags that were given.
func eachGiven(cmd *cobra.Command, f func(name, value string)) {
	cmd.Flags().Visit(func(g *pflag.Flag) {
		if value := g.Value.String(); value != "" || g.Value.Type() != "size" { // an empty size is zero, the default
			f(g.Name, value)
		}
	})
}

// readiness gives the two ways to speak to who started this process in the background; without one they do nothing.
func readiness() (ready func(*protocol.Upgraded), failed func(error)) {
	say := readyPipe()
	ready = func(u *protocol.Upgraded) {
		text := ""
		if u != nil {
			b, err := json.Marshal(u)
			if err != nil { // only a bug makes our own type unmarshalable
				panic(err)
			}
			text = string(b)
		}
		say(readyWord + text)
	}
	return ready, func(err error) { say(err.Error()) }
}

// readyPipe gives a function that speaks once.
func readyPipe() func(string) {
	if os.Getenv(readyEnv) != fmt.Sprint(readyFD) {
		return func(string) {}
	}
	_ = os.Unsetenv(readyEnv)
	syscall.CloseOnExec(readyFD)
	f := os.NewFile(readyFD, "ready")
	return func(text string) {
		_, _ = io.WriteString(f, text) // nobody listens any more: then nobody needs it
		_ = f.Close()
	}
}
