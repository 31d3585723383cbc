package command

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// sizeForm is stricter than go-units, which also accepts hexadecimal numbers and exponents.
var sizeForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+)? ?([kKmMgGtTpPeE]([iI]?[bB])?|[bB])?$`)

// parseSize reads sizes like 10G, 512MiB, 1.5T and 4096; units are powers of 1024.
func parseSize(s string) (int64, error) {
	if !sizeForm.MatchString(s) {
		return 0, fmt.Errorf("%q is not a size; write one like 10G, 512MiB or 4096", s)
	}
	// go-units ends at peta.
	number, exa := s, int64(1)
	if at := strings.IndexAny(s, "eE"); at >= 0 {
		number, exa = s[:at]+"P"+s[at+1:], 1024
	}
	n, err := units.RAMInBytes(number)
	if err != nil || n < 0 || n > (1<<63-1)/exa || n == 1<<63-1 { // a float that does not fit has become one of these
		return 0, fmt.Errorf("%q is too large; sizes must be below 8EiB", s)
	}
	return n * exa, nil
}

// formatSize formats a number of bytes for people: four digits, units of 1024.
func formatSize(n int64) string { return units.BytesSize(float64(n)) }

// counted formats a number of things: "1 segment", "2 segments".
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.Itoa(n) + " " + thing + "s"
}

// size is a flag's value in bytes.
type size int64

func (s *size) Set(v string) error {
	n, err := parseSize(v)
	if err != nil {
		return err
	}
	*s = size(n)
	return nil
}

func (s *size) Type() string { return "size" }

// String is exact, so that a flag can be passed on to another process. It is empty for zero, so
// that help shows no default.
func (s *size) String() string {
	for _, u := range []struct {
		shift uint
		name  string
	}{{40, "T"}, {30, "G"}, {20, "M"}, {10, "K"}} {
		if *s != 0 && *s%(1<<u.shift) == 0 {
			return strconv.FormatInt(int64(*s)>>u.shift, 10) + u.name + "iB"
		}
	}
	if *s == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*s), 10)
}
