package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes that prints with its largest exact unit.
type Size int64

// sizeUnits, largest first. Only powers of 1024 and their IEC names: "GB" means
// two different numbers to two people.
var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// String returns the size as ParseSize reads it, for example "20GiB".
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// ParseSize reads a whole number with a unit: B, KiB, MiB, GiB or TiB.
func ParseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "BKMGTi")
	unit := strings.TrimSpace(s[len(digits):])
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
	factor := unitBytes(unit)
	if err != nil || factor == 0 || int64(n) > math.MaxInt64/factor {
		return 0, fmt.Errorf("%q is not a size: want a whole number with B, KiB, MiB, GiB or TiB, for example \"20GiB\"", s)
	}
	return int64(n) * factor, nil
}

func unitBytes(name string) int64 {
	if name == "B" {
		return 1
	}
	for _, u := range sizeUnits {
		if u.name == name {
			return u.bytes
		}
	}
	return 0
}

func checkRange[T int | int64](n, low, high T, show func(T) string) error {
	if n < low || n > high {
		return fmt.Errorf("%s is out of range: %s to %s are allowed", show(n), show(low), show(high))
	}
	return nil
}

func checkChoice(s string, allowed []string) error {
	if !slices.Contains(allowed, s) {
		return fmt.Errorf("%q is not one of: %s", s, strings.Join(allowed, ", "))
	}
	return nil
}

func checkDuration(d, low, high time.Duration) error {
	if d < low || d > high {
		return fmt.Errorf("%s is out of range: %s to %s are allowed", d, low, high)
	}
	return nil
}

// parseDuration reads Go's notation, for example "1m30s".
func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: want for example \"30s\" or \"1m30s\"", s)
	}
	return d, nil
}

// kind names a decoded TOML value for a person.
func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a floating-point number"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}
