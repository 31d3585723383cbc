//go:build !amd64

package busfault

import "errors"

func installHandler() error { return errors.ErrUnsupported }
