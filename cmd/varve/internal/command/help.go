package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// helpCmd is cobra's help command, except that an unknown command is an error.
func helpCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND...]",
		Short:             "Show the help of a command or topic",
		Example:           "  varve help volume create\n  varve help exit-status",
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeCommand,
		RunE: func(c *cobra.Command, args []string) error {
			cmd, rest, err := c.Root().Find(args)
			if err != nil {
				return &usageError{err}
			}
			if len(rest) > 0 {
				return unknownCommand(cmd, rest[0])
			}
			cmd.InitDefaultHelpFlag() // so that --help is listed
			return cmd.Help()
		},
	}
}

func completeCommand(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cmd, rest, err := c.Root().Find(args)
	if err != nil || len(rest) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// addCompletion adds cobra's command that writes completion scripts for shells, and applies the
// rules of all commands to it. Call it after root.SetOut.
func addCompletion(root *cobra.Command, line []string) {
	root.InitDefaultCompletionCmd(line...)
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Short = "Write the completion script of a shell"
		newGroup(c)
		for _, sub := range c.Commands() {
			sub.Args = args()
			if sub.Name() == "bash" {
				writeFirst(sub, bashWords)
			}
		}
	}
}

// bashWords keeps bash from splitting VOLUME@SNAPSHOT into two words, of which it would complete
// only the second.
const bashWords = "COMP_WORDBREAKS=${COMP_WORDBREAKS//@}\n"

// writeFirst makes a command write a text before its own output.
func writeFirst(c *cobra.Command, text string) {
	run := c.RunE
	c.RunE = func(c *cobra.Command, line []string) error {
		fmt.Fprint(c.OutOrStdout(), text)
		return run(c, line)
	}
}

// refuseHelp makes --help of an unknown command an error: cobra shows the help of the group
// instead. The returned function returns the error after the command line has run.
func refuseHelp(root *cobra.Command) func() error {
	var err error
	show := root.HelpFunc()
	root.SetHelpFunc(func(c *cobra.Command, line []string) {
		if given := c.Flags().Args(); c.HasSubCommands() && len(given) > 0 {
			err = unknownCommand(c, given[0])
			return
		}
		show(c, line)
	})
	return func() error { return err }
}

// group is the Run of a command that only has subcommands.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	return unknownCommand(cmd, args[0])
}

// newGroup makes c a command that only has subcommands.
func newGroup(c *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	c.Args, c.RunE = cobra.ArbitraryArgs, group
	c.AddCommand(sub...)
	return c
}

// exitStatusTopic is a help topic: a text that is shown like the help of a command.
func exitStatusTopic() *cobra.Command {
	return &cobra.Command{
		Use:     "exit-status",
		Short:   "The meaning of exit statuses",
		Example: "  varve help exit-status",
		Args:    args(),
		RunE:    group,
		Long: `Every command ends with one of these exit statuses:

  0   Success. There may be notes on standard error.
  1   Failure; standard error says why. varve check ends with 1 if it finds damage that is not repaired, and
      varve features if the kernel has no ublk, both after their complete output. A command whose output cannot be
      written fails too.
  2   The command line is wrong: an unknown command or flag, or a value that no store could accept. Nothing was done.
  >2  A signal ended the command: 128 plus the signal's number, as shells report it. varve serve ends with 0 on SIGINT
      and SIGTERM.

Standard output has only what was asked for.`,
	}
}

func unknownCommand(cmd *cobra.Command, name string) error {
	msg := fmt.Sprintf("unknown command %q for %q", name, cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if s := cmd.SuggestionsFor(name); len(s) > 0 {
		msg += fmt.Sprintf("; did you mean %q?", s[0])
	}
	return &usageError{errors.New(msg)}
}
