package command

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError replaces the parser's error about a command line's flags. If the command line names an
// unknown command, the error is about that instead, as the flag may belong to what the user meant.
func flagError(cmd *cobra.Command, err error) error {
	if given := cmd.Flags().Args(); cmd.HasSubCommands() && len(given) > 0 {
		return unknownCommand(cmd, given[0])
	}
	var (
		unknown *pflag.NotExistError
		missing *pflag.ValueRequiredError
		invalid *pflag.InvalidValueError
		syntax  *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, &unknown):
		return usagef("unknown flag: %s", flagText(unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames()))
	case errors.As(err, &missing):
		return usagef("%s needs a value", flagText(missing.GetSpecifiedName(), missing.GetSpecifiedShortnames()))
	case errors.As(err, &invalid):
		return usagef("--%s: %w", invalid.GetFlag().Name, valueError(invalid))
	case errors.As(err, &syntax):
		return usagef("%s is not a flag", syntax.GetSpecifiedFlag())
	}
	return &usageError{err}
}

// flagText returns a flag as it was given: by name, or the first of several one-letter flags.
func flagText(name, letters string) string {
	if letters != "" {
		return "-" + letters[:1]
	}
	return "--" + name
}

// valueError describes the values that a flag of this type accepts.
func valueError(e *pflag.InvalidValueError) error {
	value := e.GetValue()
	switch e.GetFlag().Value.Type() {
	case "bool":
		return fmt.Errorf("%q; write true or false", value)
	case "int":
		if errors.Is(e, strconv.ErrRange) {
			return fmt.Errorf("%q is too large", value)
		}
		return fmt.Errorf("%q is not a whole number", value)
	case "duration":
		return fmt.Errorf("%q is not a duration; write one like 500ms, 2s or 1m30s", value)
	}
	return e.Unwrap() // a type of this package, whose errors are complete
}
