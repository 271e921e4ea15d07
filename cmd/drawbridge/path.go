package main

import (
	"errors"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

// filePath is the value of a flag that names a file: where the daemon was started, or what an
// empty variable of a script stands for, must not decide which one.
type filePath struct{ at *string }

// pathAt makes a flag's value that is kept somewhere, and what it is by itself.
func pathAt(at *string, usual string) filePath {
	*at = usual
	return filePath{at}
}

// Type is what the help calls a value.
func (filePath) Type() string { return "PATH" }

func (p filePath) String() string {
	if p.at == nil {
		return ""
	}
	return *p.at
}

// Set takes an absolute path.
func (p filePath) Set(text string) error {
	if !filepath.IsAbs(text) || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return errors.New("want an absolute path of characters that can be printed")
	}
	*p.at = filepath.Clean(text)
	return nil
}
