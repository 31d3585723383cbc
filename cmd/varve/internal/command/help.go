package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// helpCmd is cobra's, but for a command that does not exist, which is an error.
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
			cmd.InitDefaultHelpFlag() // so that it is listed
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

// addCompletion adds cobra's command that writes scripts for shells, and holds it to the rules of the others. It
// writes to where out goes now.
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

// bashWords keeps bash from taking VOLUME@SNAPSHOT for two words, of which only the second would be completed.
const bashWords = "COMP_WORDBREAKS=${COMP_WORDBREAKS//@}\n"

// writeFirst has a command write a text before its own.
func writeFirst(c *cobra.Command, text string) {
	run := c.RunE
	c.RunE = func(c *cobra.Command, line []string) error {
		fmt.Fprint(c.OutOrStdout(), text)
		return run(c, line)
	}
}

// refuseHelp takes --help of a command that does not exist for the error that it is: cobra shows the help of the
// group that it is not in. The error is there when the command line has run.
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

// newGroup gives a command that only has subcommands.
func newGroup(c *cobra.Command, sub ...*cobra.Command) *cobra.Command {
	c.Args, c.RunE = cobra.ArbitraryArgs, group
	c.AddCommand(sub...)
	return c
}

// exitStatusTopic is a text that is shown like the help of a command.
func exitStatusTopic() *cobra.Command {
	return &cobra.Command{
		Use:     "exit-status",
		Short:   "What exit statuses mean",
		Example: "  varve help exit-status",
		Args:    args(),
		RunE:    group,
		Long: `Every command ends with one of these exit statuses:

  0   It did what it was asked for. Notes may be on standard error.
  1   It failed, and standard error says why. varve check ends with 1 where it finds damage that was not mended,
      and varve features where the kernel has no ublk, after their whole output; any command whose output could not
      be written has failed too.
  2   The command line was wrong: no such command or flag, a value that no store could take. Nothing was done.
  >2  A signal ended it: 128 and its number, as the shell counts. varve serve ends with 0 on SIGINT and SIGTERM.

Standard output has what was asked for, and nothing else.`,
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
