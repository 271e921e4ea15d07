//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// point is what a program that obeys has in mind.
type point struct {
	dir string

	mu    sync.Mutex
	file  os.FileInfo // that the order was read from; nil without one
	order order
	count int // steps since the order that it is about
}

type order struct {
	verb  string
	which int // 0 for each
	steps *regexp.Regexp
}

var points = sync.OnceValue(func() *point {
	dir := os.Getenv(Env)
	if dir == "" {
		return nil
	}
	return &point{dir: dir}
})

// ErrOrdered is the error of a step that was to fail.
var ErrOrdered = errors.New("it was to fail")

// Step is called before object is changed, e.g. Step("link dbr3f2a9c0d11ee", "set up").
func Step(object, what string) error {
	p := points()
	if p == nil {
		return nil
	}
	name := object + ": " + what
	switch p.reach(name) {
	case "kill":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {} // it comes soon
	case "hold":
		p.hold()
	case "fail":
		return fmt.Errorf("%s: %w", name, ErrOrdered)
	}
	return nil
}

// reach counts a step and returns what is to be done at it.
func (p *point) reach(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read()
	if p.file == nil || !p.order.steps.MatchString(name) {
		return ""
	}
	p.count++
	p.write(fmt.Sprintf("%d %s\n", p.count, name))
	if p.order.which != 0 && p.order.which != p.count {
		return ""
	}
	return p.order.verb
}

// read takes note of the order if it is another one than before.
func (p *point) read() {
	path := filepath.Join(p.dir, OrderFile)
	file, err := os.Stat(path)
	if err != nil {
		p.file = nil
		return
	}
	if same(p.file, file) {
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		panic(fmt.Sprintf("failpoint: %v", err))
	}
	var o order
	var steps string
	if _, err := fmt.Sscanf(string(text), "%s %d", &o.verb, &o.which); err != nil {
		panic(fmt.Sprintf("failpoint: order %q: %v", text, err))
	}
	if fields := regexp.MustCompile(`^\S+ \d+ (.*)`).FindSubmatch(text); fields != nil {
		steps = string(fields[1])
	}
	o.steps = regexp.MustCompile(steps)
	p.file, p.order, p.count = file, o, 0
}

// same reports whether two looks at the file found one order. A file that replaces another
// may get the number of its inode.
func same(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime())
}

func (p *point) write(line string) {
	f, err := os.OpenFile(filepath.Join(p.dir, StepsFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(fmt.Sprintf("failpoint: %v", err))
	}
	defer f.Close()
	if _, err := f.WriteString(line); err != nil {
		panic(fmt.Sprintf("failpoint: %v", err))
	}
}

// hold waits until the order is another one.
func (p *point) hold() {
	p.mu.Lock()
	mine := p.file
	p.mu.Unlock()
	for {
		file, err := os.Stat(filepath.Join(p.dir, OrderFile))
		if err != nil || !same(mine, file) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
