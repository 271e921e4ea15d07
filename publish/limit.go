package publish

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// spare is how many files the process keeps for all else that it does: a daemon that
// cannot open any more cannot let go of a port, either.
const spare = 256

// fits reports an error if the process may not open as many sockets more. What the server
// may need is left to it: else it would be those whom it serves that lack it.
func (p *Ports) fits(more int) error {
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	held, kept := 0, spare+p.server.Files()
	for _, sockets := range p.held {
		held += len(sockets)
	}
	if uint64(held+more+kept) <= limit.Cur {
		return nil
	}
	return fmt.Errorf("%w: each port that is held is one, %d are, %d are to be, and the daemon may open %d, of which it keeps %d for all else: "+
		"raise its limit (LimitNOFILE of the service, for a managed plugin that of the engine)", unix.EMFILE, held, more, limit.Cur, kept)
}
