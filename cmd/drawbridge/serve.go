package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/writer"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/drawbridge-net/drawbridge/admin"
	"github.com/drawbridge-net/drawbridge/driver"
	"github.com/drawbridge-net/drawbridge/firewall"
	"github.com/drawbridge-net/drawbridge/socket"
)

// settings are the flags of serve.
type settings struct {
	pluginSocket string
	adminSocket  string
	stateDir     string
	runDir       string
	ranges       ranges
	sysctls      string
	firewall     firewall.Mode
	logLevel     logrus.Level
	// removing is no flag: nothing is brought back that is about to go, and any host will do.
	removing bool
}

func (e *env) serve() *cobra.Command {
	var s settings
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon that Docker talks to",
		Long: `Run the daemon that Docker talks to.

It brings back every network, endpoint and published port that it knew before it
opens its socket, and leaves all of them in the kernel when it ends: running
containers do not notice whether it runs. Where there is no network, it leaves nothing.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s.adminSocket = e.adminSocket
			if !c.Flags().Changed("log-level") && e.logLevel != "" {
				if err := s.logLevel.UnmarshalText([]byte(e.logLevel)); err != nil {
					return fmt.Errorf("LOG_LEVEL: %w", err)
				}
			}
			if !c.Flags().Changed("firewall") && e.firewall != "" {
				if err := s.firewall.UnmarshalText([]byte(e.firewall)); err != nil {
					return fmt.Errorf("FIREWALL: %w", err)
				}
			}
			return serve(c.Context(), s, e.log(s.logLevel))
		},
	}
	c.Flags().Var(pathAt(&s.pluginSocket, "/run/docker/plugins/drawbridge.sock"), "plugin-socket", "where Docker finds the driver; its name is the driver's")
	c.Flags().Var(pathAt(&s.stateDir, "/var/lib/drawbridge"), "state-dir", "what must outlive a power cut")
	c.Flags().Var(pathAt(&s.runDir, "/run/drawbridge"), "run-dir", "what dies with the boot")
	c.Flags().Var(&s.ranges, "pool", "choose subnets that nobody names from here, e.g. 10.64.0.0/12=24; repeatable, either family (default "+defaultRanges()+")")
	c.Flags().Var(pathAt(&s.sysctls, "/proc/sys"), "sysctls", "where sysctls of net can be written")
	c.Flags().TextVar(&s.firewall, "firewall", firewall.Auto, "nftables, iptables, none (published ports by a proxy alone), or auto: nftables where the kernel takes a trial of all that is needed; also by FIREWALL in the environment")
	c.Flags().TextVar(&s.logLevel, "log-level", logrus.InfoLevel, "debug, info, warn or error; also by LOG_LEVEL in the environment")
	return c
}

// log puts warnings and errors on stderr and the rest on stdout: an engine logs what
// a managed plugin prints on stderr as errors, and the rest as information.
func (e *env) log(level logrus.Level) *logrus.Logger {
	log := logrus.New()
	log.SetLevel(level)
	log.SetOutput(io.Discard)
	log.AddHook(&writer.Hook{Writer: e.stderr, LogLevels: logrus.AllLevels[:logrus.WarnLevel+1]})
	log.AddHook(&writer.Hook{Writer: e.stdout, LogLevels: logrus.AllLevels[logrus.WarnLevel+1:]})
	return log
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, s settings, log *logrus.Logger) error {
	if err := checkRootless(); err != nil {
		return err
	}
	if err := raiseFileLimit(); err != nil {
		log.WithError(err).Warn("every published port holds a socket, and few can be held")
	}
	// Where another daemon lives, nothing is touched: what it planned and this one
	// did not would be taken off the host.
	if err := errors.Join(checkAlone(s.pluginSocket), checkAlone(s.adminSocket)); err != nil {
		return err
	}
	if err := checkPrivilege(); err != nil {
		return err
	}
	d, err := assemble(ctx, s, log)
	if err != nil {
		return perhapsFiles(err)
	}
	defer d.close()
	for _, notice := range d.notices() {
		log.Warn(notice)
	}
	d.store.Listen(func(notice string) { log.Warn(notice) })
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	operator := &admin.Server{
		Engine: d.engine, Pools: d.pools, Version: version(), Driver: driverName(s.pluginSocket), Firewall: admin.Firewall{Backend: d.firewall.Name, Reason: d.firewall.Reason},
		Notices: d.notices, Warnings: d.warnings, Obstacles: d.foreignObstacles, Log: log, Forget: d.store.Discard, Removed: stop,
	}
	docker := driver.New(d.engine, d.pools, d.foreignObstacles, log)
	// The operator may take everything off the host, an engine and its group only what
	// Docker has made.
	adminListener, err := socket.Listen(s.adminSocket, 0o600)
	if err != nil {
		return err
	}
	dockerListener, err := socket.Listen(s.pluginSocket, 0o660)
	if err != nil {
		return errors.Join(err, adminListener.Close())
	}
	log.WithField("socket", s.pluginSocket).Info("ready")
	if err := notifyReady(); err != nil {
		log.WithError(err).Warn("tell the service manager that we are ready")
	}
	tasks := []func(context.Context) error{
		func(ctx context.Context) error { return docker.Serve(ctx, dockerListener) },
		func(ctx context.Context) error { return serveAdmin(ctx, operator, adminListener) },
		d.engine.Run,
		d.foreign.Guard,
		d.proxy.Run,
		func(ctx context.Context) error { return d.collect(ctx, log) },
	}
	for _, watch := range append(d.firewall.Watches(), d.links.Watch, d.links.Poll, d.foreign.Watch, d.zones.Watch, d.ports.Watch) {
		tasks = append(tasks, func(ctx context.Context) error { return watch(ctx, d.engine.Wake) })
	}
	err = together(ctx, stop, tasks...)
	// What is left in the kernel is for networks. Whoever disables a managed plugin
	// that has none must not need another command for the rest.
	if d.finish(ctx) && err == nil && d.engine.Now().State.Networks.Len() == 0 {
		err = d.engine.Remove(context.WithoutCancel(ctx))
	}
	return err
}

// driverName is what Docker calls a driver whose socket it finds there, unless a file in
// /etc/docker/plugins gives it another name.
func driverName(path string) string { return strings.TrimSuffix(filepath.Base(path), ".sock") }

// finishPatience is how long links may take to go of which a request was told that they do.
const finishPatience = 5 * time.Second

// finish waits for what was answered and is not done yet, and reports whether it is: what
// takes too long is found at the next start.
func (d *daemon) finish(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishPatience)
	defer cancel()
	d.engine.Await(ctx)
	return ctx.Err() == nil
}

// checkAlone reports an error if another process answers on a socket.
func checkAlone(path string) error {
	if answers(path) {
		return fmt.Errorf("socket %s: another process answers there: is a drawbridge running?", path)
	}
	return nil
}

// together runs all until the first ends or ctx does, and waits for every one.
func together(ctx context.Context, stop func(), all ...func(context.Context) error) error {
	errs := make([]error, len(all))
	var wait sync.WaitGroup
	for i, run := range all {
		wait.Go(func() {
			defer stop()
			errs[i] = run(ctx)
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

// whereFiles is where the limit of open files is set.
const whereFiles = "LimitNOFILE of the service, for a managed plugin that of the engine"

// perhapsFiles tells whoever has too few files where there are more.
func perhapsFiles(err error) error {
	if errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("%w: raise the limit (%s)", err, whereFiles)
	}
	return err
}

// raiseFileLimit lets a process hold as many sockets as the kernel allows it.
func raiseFileLimit() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	const enough = 65536
	// Who has CAP_SYS_RESOURCE may have more than was given.
	if limit.Max < enough && unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: enough, Max: enough}) == nil {
		return nil
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
	}
	if limit.Max < enough {
		return fmt.Errorf("the limit of open files is %d, want %d or more: raise it (%s)", limit.Max, enough, whereFiles)
	}
	return nil
}

// operatorPatience is how long a command may take to say what it wants, on a host that is
// busy.
const operatorPatience = 10 * time.Second

func serveAdmin(ctx context.Context, s *admin.Server, l net.Listener) error {
	// Commands say what they want at once, and in few words.
	server := &http.Server{Handler: s.Handler(), ReadTimeout: operatorPatience, IdleTimeout: operatorPatience, MaxHeaderBytes: 16 << 10}
	stopped := context.AfterFunc(ctx, func() {
		// An answer under way, such as that to remove, is still given.
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = server.Shutdown(drain)
	})
	defer stopped()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("operator socket: %w", err)
	}
	return nil
}

// notifyReady tells systemd that the sockets are open (sd_notify(3)), which then
// starts Docker.
func notifyReady() error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return fmt.Errorf("notify %s: %w", socket, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("notify %s: %w", socket, err)
	}
	return nil
}
