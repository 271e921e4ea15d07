package drawbridge_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestNothingDependsOnTheTimeOfDay so that a clock that is wrong, jumps or is set back does no
// harm: what time.Now returns counts on whatever the clock is set to, until somebody takes the
// time of day out of it, or compares it with one from elsewhere.
func TestNothingDependsOnTheTimeOfDay(t *testing.T) {
	read := 0
	for _, p := range packages(t) {
		if strings.HasPrefix(p.name(), "test") {
			continue
		}
		for _, name := range p.GoFiles {
			path := filepath.Join(filepath.FromSlash(p.name()), name)
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			read++
			ast.Inspect(file, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && tellsTime(call) {
					t.Errorf("%s: a time of day", files.Position(call.Pos()))
				}
				return true
			})
		}
	}
	if read < 50 {
		t.Errorf("%d files were read", read)
	}
}

// tellsTime reports whether a call takes the time of day out of a Time, or makes a Time of
// one. A deadline that has passed in any case may be one.
func tellsTime(call *ast.CallExpr) bool {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	of, _ := method.X.(*ast.Ident)
	ofTime := of != nil && of.Name == "time"
	switch method.Sel.Name {
	case "Unix":
		return !ofTime || !literal(call.Args)
	case "UnixNano", "UnixMilli", "UnixMicro", "ModTime":
		return true
	case "Date", "Parse", "ParseInLocation":
		return ofTime
	case "Round", "Truncate": // of a Time, 0 takes the rest out
		return len(call.Args) == 1 && literal(call.Args)
	}
	return false
}

// literal reports whether all of these are written down, e.g. 0, 1.
func literal(args []ast.Expr) bool {
	for _, a := range args {
		if _, ok := a.(*ast.BasicLit); !ok {
			return false
		}
	}
	return true
}
