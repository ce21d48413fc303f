package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// keyPath is a dotted key as one string of its parts and separators.
type keyPath string

// separator is no UTF-8, so it is in no key of a TOML file.
const separator = "\xff"

// pathOf splits a known key's name at its dots.
func pathOf(name string) keyPath { return keyPath(strings.ReplaceAll(name, ".", separator)) }

func (p keyPath) join(name string) keyPath {
	if p == "" {
		return keyPath(name)
	}
	return p + separator + keyPath(name)
}

// String returns the key as one writes it in TOML.
func (p keyPath) String() string {
	parts := strings.Split(string(p), separator)
	for i, part := range parts {
		if part == "" || strings.Trim(part, bareKeyChars) != "" {
			parts[i] = strconv.Quote(part)
		}
	}
	return strings.Join(parts, ".")
}

const bareKeyChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

// decode parses TOML to its values and the line of each key.
func decode(data []byte) (map[string]any, map[keyPath]int, *Problem) {
	values := map[string]any{}
	if err := toml.Unmarshal(data, &values); err != nil {
		p := Problem{Line: 1, Text: err.Error()}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			p.Line, _ = de.Position()
			p.Text = strings.TrimPrefix(de.Error(), "toml: ")
		}
		return nil, nil, &p
	}
	lines, err := keyLines(data)
	if err != nil {
		return nil, nil, &Problem{Line: 1, Text: err.Error()}
	}
	return values, lines, nil
}

// keyLines finds the line where each key and table first appears.
func keyLines(data []byte) (map[keyPath]int, error) {
	w := lineWalker{lines: map[keyPath]int{}}
	w.parser.Reset(data)
	var table keyPath
	for w.parser.NextExpression() {
		switch e := w.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = w.key("", e)
		case unstable.KeyValue:
			w.keyValue(table, e)
		}
	}
	return w.lines, w.parser.Error()
}

type lineWalker struct {
	parser unstable.Parser
	lines  map[keyPath]int
}

func (w *lineWalker) keyValue(table keyPath, n *unstable.Node) {
	p := w.key(table, n)
	if v := n.Value(); v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			w.keyValue(p, it.Node())
		}
	}
}

// key records the parts of a node's dotted key below table and returns it.
func (w *lineWalker) key(table keyPath, n *unstable.Node) keyPath {
	p := table
	for it := n.Key(); it.Next(); {
		part := it.Node()
		p = p.join(string(part.Data))
		if _, known := w.lines[p]; !known {
			w.lines[p] = w.parser.Shape(part.Raw).Start.Line
		}
	}
	return p
}

// apply sets what values say and returns what is wrong with them, by line.
func apply(c *Config, values map[string]any, lines map[keyPath]int) []Problem {
	a := applier{config: c, lines: lines}
	a.table("", values)
	slices.SortStableFunc(a.problems, func(x, y Problem) int { return cmp.Compare(x.Line, y.Line) })
	return a.problems
}

type applier struct {
	config   *Config
	lines    map[keyPath]int
	problems []Problem
}

func (a *applier) table(at keyPath, values map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		p, v := at.join(name), values[name]
		if k, ok := findKey(p); ok {
			if err := k.set(a.config, v); err != nil {
				a.complain(p, "%s: %v", p, err)
			}
			continue
		}
		sub, isTable := v.(map[string]any)
		switch {
		case isSection(p) && isTable:
			a.table(p, sub)
		case isSection(p):
			a.complain(p, "%s must be a table, written as [%s]", p, p)
		default:
			a.complain(p, "unknown key %s, known are: %s", p, strings.Join(siblings(at), ", "))
		}
	}
}

func (a *applier) complain(p keyPath, format string, args ...any) {
	a.problems = append(a.problems, Problem{Line: a.lines[p], Text: fmt.Sprintf(format, args...)})
}
