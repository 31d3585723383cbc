package command

import (
	"fmt"
	"regexp"
	"strings"
)

// object is what an action is done to, at the end of its description: create volume "data", mount /mnt.
var object = regexp.MustCompile(`(?:(volume|snapshot|detach) "(.*)"|mount (/.*))$`)

// doing says what was being done when an error came, unless the error says so itself.
func doing(what string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), what) {
		return err
	}
	if m := object.FindStringSubmatch(what); m != nil {
		// The store names the object too.
		for _, name := range []string{m[1] + " " + m[2] + ": ", fmt.Sprintf("%s %q: ", m[1], m[2]), fmt.Sprintf("%q is ", m[2]), m[3] + ": "} {
			if rest, ok := strings.CutPrefix(err.Error(), name); ok {
				return &doingError{what + ": " + rest, err}
			}
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// doingError is err in other words.
type doingError struct {
	text string
	err  error
}

func (e *doingError) Error() string { return e.text }
func (e *doingError) Unwrap() error { return e.err }
