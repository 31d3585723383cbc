// Package command is varve's command line, with one file for each group of commands.
//
// A command asks the store's daemon. If no daemon runs, and the command does not need one, it opens
// the store itself.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// defaultStore is the store's directory unless --store or VARVE_STORE names another.
const defaultStore = "/var/lib/varve"

// app is the state that all commands share.
type app struct {
	store string // as given; absolute once a command runs
	json  bool
}

// Run runs one command line and returns its exit status.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := New()
	root.SetArgs(args)
	out := &output{Writer: stdout}
	root.SetOut(out)
	root.SetErr(stderr)
	addCompletion(root, args)
	refused := refuseHelp(root)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = refused()
	}
	if err == nil && out.err != nil {
		err = fmt.Errorf("write output: %w", out.err)
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "varve: %s\n", printable(err.Error()))
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "usage: %s\n", cmd.UseLine())
		return exitUsage
	}
	return exitError
}

// output keeps its first write error: a command whose output is lost has failed, even if all else
// succeeded.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

// longestError bounds the text of an error that is shown, in bytes: a name or path in it may have
// any length.
const longestError = 2048

// printable escapes characters that a terminal would not show or would obey, and cuts out the
// middle of a text that is too long: the cause is at one of the ends.
func printable(text string) string {
	if n := longestError / 2; len(text) > longestError {
		return printable(text[:n]) + "[...]" + printable(text[len(text)-n:])
	}
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && text[i] >= utf8.RuneSelf && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case r == '\n' || strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// New returns the root command.
func New() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:   "varve",
		Short: "Block devices and mounts from a content-addressed store",
		Long: `varve serves block devices (/dev/ublkbN) from a content-addressed store on a local disk, without copying the data
through user space, and shows its volumes and snapshots as files.

A daemon serves the store (varve serve). Devices and mounts need it; the other commands work with or without it.
Sizes are written like 10G, 512MiB or 1.5T; all units are powers of 1024.`,
		Example: `  varve init
  varve serve --background
  varve volume create data --size 10G
  dev=$(varve attach data)
  mkfs.ext4 "$dev" && mount "$dev" /mnt
  varve snapshot create data@monday
  varve mount /run/snapshots`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          group,
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetFlagErrorFunc(flagError)
	root.Version = versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().Bool("version", false, "print the version")
	def := defaultStore
	if v := os.Getenv("VARVE_STORE"); v != "" {
		def = v
	}
	root.PersistentFlags().StringVar(&a.store, "store", def, "the store's `directory`; VARVE_STORE sets the default")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if a.store == "" {
			return usagef("--store is empty; give the store's directory")
		}
		abs, err := filepath.Abs(a.store)
		if err != nil {
			return fmt.Errorf("store %q: %w", a.store, err)
		}
		a.store = abs
		return nil
	}
	root.AddGroup(
		&cobra.Group{ID: "store", Title: "The store:"},
		&cobra.Group{ID: "volumes", Title: "Volumes and snapshots:"},
		&cobra.Group{ID: "devices", Title: "Devices and mounts:"},
		&cobra.Group{ID: "topics", Title: "Topics:"},
	)
	root.SetHelpCommandGroupID("")
	add := func(id string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
	add("store", a.initCmd(), a.setCmd(), a.serveCmd(), a.upgradeCmd(), a.stopCmd(), a.statCmd(), a.checkCmd(), a.gcCmd(), a.reindexCmd())
	add("volumes", a.volumeCmd(), a.snapshotCmd())
	add("devices", a.attachCmd(), a.detachCmd(), a.mountCmd(), a.umountCmd(), a.featuresCmd(), a.ublkCmd())
	add("", a.dropPagesCmd(), a.versionCmd())
	add("topics", exitStatusTopic())
	root.SetHelpCommand(helpCmd())
	return root
}

// usageError is an error of the command line, regardless of the store's state.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// args makes a wrong number of arguments a usage error that names the missing or unexpected one.
func args(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, got []string) error {
		switch {
		case len(got) < len(names):
			return usagef("%s is missing", names[len(got)])
		case len(got) > len(names):
			return usagef("unexpected argument %q", got[len(names)])
		}
		return nil
	}
}

// atLeastOne is args for one or more of one kind.
func atLeastOne(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, got []string) error {
		if len(got) == 0 {
			return usagef("%s is missing", name)
		}
		return nil
	}
}

// upTo is args with n optional arguments.
func upTo(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, got []string) error {
		if len(got) > n {
			return usagef("unexpected argument %q", got[n])
		}
		return nil
	}
}

// jsonFlag adds the flag --json to a command.
func (a *app) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "write JSON")
	return cmd
}
