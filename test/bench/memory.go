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

// memory sums what the processes of a /proc occupy that are there for the sake of
// networks: the engine, its proxies and Drawbridge. Pages that several share are shared
// out among them (PSS).
func memory(proc string) (mib float64, processes int, err error) {
	dirs, err := filepath.Glob(proc + "/[0-9]*")
	if err != nil {
		return 0, 0, err
	}
	for _, dir := range dirs {
		kib, err := pss(dir)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return 0, 0, err
		}
		if kib > 0 {
			mib += float64(kib) / 1024
			processes++
		}
	}
	return mib, processes, nil
}

// pss is the share of one process in KiB, 0 if it is none that counts.
func pss(dir string) (kib int, err error) {
	name, err := os.ReadFile(dir + "/comm")
	if err != nil || !slices.Contains([]string{"dockerd", "docker-proxy", "drawbridge"}, strings.TrimSpace(string(name))) {
		return 0, err
	}
	rollup, err := os.ReadFile(dir + "/smaps_rollup")
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(rollup)); lines.Scan(); {
		if n, _ := fmt.Sscanf(lines.Text(), "Pss: %d kB", &kib); n == 1 {
			return kib, nil
		}
	}
	return 0, fmt.Errorf("read %s/smaps_rollup: no Pss", dir)
}
