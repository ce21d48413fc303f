package advice

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// builtins are what one of the usual shells may do itself, and their keywords.
var builtins = strings.Fields(`. : [ [[ ]] { } ! alias bg bind break builtin caller case cat cd command compgen complete
	compopt continue coproc declare dirs disown do done echo elif else enable esac eval exec exit export false fc fg fi
	for function getopts hash help history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray
	readonly return select set shift shopt sleep source suspend test then time times trap true type typeset ulimit umask
	unalias unset until wait while`)

// harmless are those that go on to the next command.
var harmless = []string{":", "cd", "export", "set", "true", "ulimit", "umask"}

// plain is a word without anything that a shell would expand.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./+,:@%-]+$`)

var assignment = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*=`)

// startsProgram says whether a shell, called with these arguments, certainly
// starts another program first of all. Much that it cannot say may do so, too: a
// shell runs on nanos as long as it does everything itself.
func (c *checker) startsProgram(shell string, args []string) bool {
	for command := range strings.FieldsFuncSeq(strings.ReplaceAll(script(args), "&&", ";"), func(r rune) bool { return r == ';' || r == '\n' }) {
		words := strings.Fields(command)
		for len(words) > 0 && assignment.MatchString(words[0]) {
			words = words[1:]
		}
		if len(words) > 1 && words[0] == "exec" {
			words = words[1:]
		}
		switch {
		case len(words) == 0 || slices.Contains(harmless, words[0]):
		case !plain.MatchString(words[0]) || slices.Contains(builtins, words[0]):
			return false
		default:
			return c.isOther(shell, words[0])
		}
	}
	return false
}

// script is what follows the option -c.
func script(args []string) string {
	for i := 1; i+1 < len(args) && strings.HasPrefix(args[i], "-") && !strings.HasPrefix(args[i], "--"); i++ {
		if strings.Contains(args[i], "o") { // an option with a name behind it
			return ""
		}
		if strings.Contains(args[i], "c") {
			return args[i+1]
		}
	}
	return ""
}

// isOther says whether a name means a program other than the shell, which may be
// one of many in the same file.
func (c *checker) isOther(shell, name string) bool {
	n, at, err := c.find(name)
	if err != nil || !n.IsFile() {
		return false
	}
	return at != shell && path.Base(at) != "busybox"
}
