// Command peer is what containers run in tests: a server that says who it is
// and whom it sees, and the client that asks. It knows nothing of Docker.
//
//	peer serve tcp:80 udp:53        answer until killed, named after the host
//	peer ask [-wait 5s] tcp 172.30.0.2:80
//	peer talk tcp 172.30.0.2:80     one question for each line of the input
//
// ask prints the answer and leaves with 0, or prints refuse or drop and the
// cause and leaves with 1.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: peer serve|ask|talk …")
	}
	switch args[0] {
	case "serve":
		return serve(args[1:])
	case "ask":
		return ask(args[1:])
	case "talk":
		return talk(args[1:])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

func serve(services []string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	for _, service := range services {
		network, port, ok := strings.Cut(service, ":")
		if !ok {
			return fmt.Errorf("service %q: want network:port", service)
		}
		s, err := hello.Serve(network, net.JoinHostPort("", port), name)
		if err != nil {
			return err
		}
		defer s.Close()
	}
	fmt.Println("serving")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}

func ask(args []string) error {
	flags := flag.NewFlagSet("ask", flag.ContinueOnError)
	wait := flags.Duration("wait", hello.Patience, "give up after this time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return fmt.Errorf("usage: peer ask [-wait 5s] NETWORK ADDRESS:PORT")
	}
	address, err := resolve(flags.Arg(0), flags.Arg(1))
	if err != nil {
		return fmt.Errorf("%s: %w", hello.Refuse, err)
	}
	answer, err := hello.Ask(flags.Arg(0), address, *wait)
	if err != nil {
		return fmt.Errorf("%s: %w", hello.Judge(err), err)
	}
	fmt.Println(answer)
	return nil
}

func talk(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: peer talk NETWORK ADDRESS:PORT")
	}
	address, err := resolve(args[0], args[1])
	if err != nil {
		return err
	}
	conn, err := hello.Dial(args[0], address, hello.Patience)
	if err != nil {
		return fmt.Errorf("%s: %w", hello.Judge(err), err)
	}
	defer conn.Close()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		answer, err := conn.Ask(5 * time.Second)
		if err != nil {
			return fmt.Errorf("%s: %w", hello.Judge(err), err)
		}
		fmt.Println(answer)
	}
	return nil
}

// resolve turns c1:80 into 172.30.0.2:80, so that names are tested too.
func resolve(network, address string) (string, error) {
	if _, err := netip.ParseAddrPort(address); err == nil {
		return address, nil
	}
	if strings.HasPrefix(network, "udp") {
		a, err := net.ResolveUDPAddr(network, address)
		if err != nil {
			return "", err
		}
		return a.String(), nil
	}
	a, err := net.ResolveTCPAddr(network, address)
	if err != nil {
		return "", err
	}
	return a.String(), nil
}
