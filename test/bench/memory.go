package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// memory says what the processes of a /proc occupy that are there for the sake of
// networks: the engine, its proxies and Drawbridge. Pages that several share are shared
// out among them (PSS).
func memory(proc string) (Memory, error) {
	var m Memory
	dirs, err := filepath.Glob(proc + "/[0-9]*")
	if err != nil {
		return m, err
	}
	for _, dir := range dirs {
		name, kib, err := pss(dir)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return m, err
		}
		if kib == 0 {
			continue
		}
		m.Processes++
		m.MiB += float64(kib) / 1024
		if name == "drawbridge" {
			m.Ours += float64(kib) / 1024
		}
	}
	m.MiB, m.Ours = tenths(m.MiB), tenths(m.Ours)
	return m, nil
}

// pss is the name of a process and its share in KiB, 0 if it is none that counts.
func pss(dir string) (name string, kib int, err error) {
	comm, err := os.ReadFile(dir + "/comm")
	name = strings.TrimSpace(string(comm))
	if err != nil || !slices.Contains([]string{"dockerd", "docker-proxy", "drawbridge"}, name) {
		return name, 0, err
	}
	rollup, err := os.ReadFile(dir + "/smaps_rollup")
	if err != nil {
		return name, 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(rollup)); lines.Scan(); {
		if n, _ := fmt.Sscanf(lines.Text(), "Pss: %d kB", &kib); n == 1 {
			return name, kib, nil
		}
	}
	return name, 0, fmt.Errorf("read %s/smaps_rollup: no Pss", dir)
}
