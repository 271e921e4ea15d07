// Command drawbridge is the daemon that Docker talks to (drawbridge serve) and the
// commands by which an operator looks at it. It only puts the parts together.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/drawbridge-net/drawbridge/admin"
)

// Exit codes: 0 fine, 1 found trouble, 2 misuse.
const (
	exitTrouble = 1
	exitMisuse  = 2
)

// env is what a command needs of the world.
type env struct {
	stdout, stderr io.Writer
	// adminSocket is where the daemon listens for the operator.
	adminSocket string
	// pluginSockets matches that of a managed plugin, as the host sees it.
	pluginSockets string
	// logLevel and firewall are LOG_LEVEL and FIREWALL of the environment, which a managed
	// plugin's settings are.
	logLevel, firewall string
	// dockerSocket is an engine's API, asked for the names of containers.
	dockerSocket string
}

// errTrouble ends a command that has already told what is wrong.
var errTrouble = errors.New("trouble found")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, &env{
		stdout: os.Stdout, stderr: os.Stderr, pluginSockets: admin.PluginSockets,
		logLevel: os.Getenv("LOG_LEVEL"), firewall: os.Getenv("FIREWALL"),
	}, os.Args[1:])
	stop()
	os.Exit(code)
}

// run is main without the process.
func run(ctx context.Context, e *env, args []string) int {
	root := e.root()
	root.SetArgs(args)
	root.SetOut(e.stdout)
	root.SetErr(e.stderr)
	misuse := true
	root.PersistentPreRun = func(*cobra.Command, []string) { misuse = false }
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errTrouble):
		return exitTrouble
	}
	fmt.Fprintf(e.stderr, "drawbridge: %v\n", err)
	if misuse {
		return exitMisuse
	}
	return exitTrouble
}

func (e *env) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "drawbridge",
		Short:         "Container networks for Docker: docker network create -d drawbridge",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.PersistentFlags().Var(pathAt(&e.adminSocket, admin.DefaultSocket), "admin-socket", "the daemon's operator socket")
	root.AddCommand(e.serve(), e.ps(), e.networks(), e.plan(), e.status(), e.remove(), e.version())
	return root
}

// client asks the daemon on the operator's socket or, where none answers on the usual
// one, that of a managed plugin.
func (e *env) client() *admin.Client {
	if e.adminSocket == admin.DefaultSocket && !answers(e.adminSocket) {
		sockets, _ := filepath.Glob(e.pluginSockets) // only a bad pattern is an error
		if i := slices.IndexFunc(sockets, answers); i >= 0 {
			return admin.NewClient(sockets[i])
		}
	}
	return admin.NewClient(e.adminSocket)
}

// answers reports whether a process accepts on a socket. Where there is no socket, or
// one that a dead process left, none does.
func answers(path string) bool {
	conn, err := net.Dial("unix", path)
	return err == nil && conn.Close() == nil
}
