package reach

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Golden are the tables that the judges are held to, by name. Those that do not differ
// share a file: it begins with their names.
type Golden map[string]string

// Of is the name of the table of a kind of network beside an engine.
func Of(k Kind, e Engine) string { return k.Name + e.Name }

// Read reads the files of a directory.
func Read(dir string) (Golden, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return nil, err
	}
	g := Golden{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		names, table, _ := strings.Cut(string(text), "\n\n")
		for name := range strings.Lines(names) {
			g[strings.TrimSpace(strings.TrimPrefix(name, "# "))] = table
		}
	}
	return g, nil
}

// Write replaces the files of a directory.
func (g Golden) Write(dir string) error {
	old, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	files := map[string]string{} // by table
	for _, e := range Engines() {
		for _, k := range Kinds() {
			name := Of(k, e)
			table := g[name]
			file, ok := files[table]
			if !ok {
				file = filepath.Join(dir, strings.NewReplacer(",", "", " ", "-").Replace(name)+".txt")
				files[table] = file
			}
			heads, _ := os.ReadFile(file)
			names, _, _ := strings.Cut(string(heads), "\n\n")
			text := strings.TrimPrefix(names+fmt.Sprintf("\n# %s\n\n%s", name, table), "\n")
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
