package command

import (
	"fmt"
	"regexp"
	"strings"
)

// object matches the object at the end of an action's description: create volume "data", mount
// /mnt.
var object = regexp.MustCompile(`(?:(volume|snapshot|detach) "(.*)"|mount (/.*))$`)

// doing puts the action that failed in front of an error, unless the error begins with it.
func doing(what string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), what) {
		return err
	}
	if m := object.FindStringSubmatch(what); m != nil {
		// The store's errors name the object too: name it once.
		for _, name := range []string{m[1] + " " + m[2] + ": ", fmt.Sprintf("%s %q: ", m[1], m[2]), fmt.Sprintf("%q is ", m[2]), m[3] + ": "} {
			if rest, ok := strings.CutPrefix(err.Error(), name); ok {
				return &doingError{what + ": " + rest, err}
			}
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// doingError is err with another text.
type doingError struct {
	text string
	err  error
}

func (e *doingError) Error() string { return e.text }
func (e *doingError) Unwrap() error { return e.err }
