package lab

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netns"

	"github.com/drawbridge-net/drawbridge/test/lab/hello"
)

// Image is the only image of a private engine: busybox, and peer, which answers
// on TCP and UDP port 80 unless told otherwise.
const Image = "lab"

// Run starts a container that serves, detached, named and with that name as
// its host name, e.g. Run("c1", "--network", "web", "-p", "8080:80"), and waits
// until it does serve.
func (e *Engine) Run(name string, args ...string) {
	e.t.Helper()
	words := []string{"run", "-d", "--name", name}
	if !strings.Contains(" "+strings.Join(args, " "), " --network=container:") {
		words = append(words, "--hostname", name)
	}
	e.Docker(append(append(words, args...), Image)...)
	e.Serves(name)
}

// Serves waits until a container serves.
func (e *Engine) Serves(name string) {
	e.t.Helper()
	Until(e.t, "container "+name+" serves", func() error {
		out, err := e.get("/containers/" + name + "/logs?stdout=1&stderr=1")
		if err == nil && !bytes.Contains(out, []byte("serving")) {
			err = fmt.Errorf("it has said %q so far", out)
		}
		return err
	})
}

// Ask has a container put one question, e.g. Ask("c1", "tcp", "c2:80").
func (e *Engine) Ask(container, network, address string) (hello.Answer, error) {
	return e.askFor(container, network, address, hello.Patience)
}

// MustReach fails the test unless the named server answers the container; it
// returns the answer.
func (e *Engine) MustReach(container, network, address, server string) hello.Answer {
	e.t.Helper()
	answer, err := e.Ask(container, network, address)
	if err != nil {
		e.t.Fatalf("%s -> %s/%s: want an answer of %s: %v", container, address, network, server, err)
	}
	if answer.Server != server {
		e.t.Fatalf("%s -> %s/%s: want an answer of %s, got %v", container, address, network, server, answer)
	}
	return answer
}

// MustNotReach fails the test unless the container's question has the given
// fate, refuse or drop.
func (e *Engine) MustNotReach(container, network, address string, want hello.Verdict) {
	e.t.Helper()
	answer, err := e.askFor(container, network, address, hello.Impatience)
	if err == nil {
		e.t.Fatalf("%s -> %s/%s: want %s, got the answer %v", container, address, network, want, answer)
	}
	if !strings.HasPrefix(err.Error(), string(want)+":") {
		e.t.Fatalf("%s -> %s/%s: want %s, got %v", container, address, network, want, err)
	}
}

func (e *Engine) askFor(container, network, address string, wait time.Duration) (hello.Answer, error) {
	out, err := e.Exec(container, "/bin/peer", "ask", "-wait", wait.String(), network, address)
	if err != nil {
		return hello.Answer{}, fmt.Errorf("%s%w", out, err)
	}
	return hello.Parse(out)
}

// Exec runs a program of a container's in its namespaces and returns what it printed. That
// is what docker exec does, save that it has the rights of the test's own process; it takes
// a tenth of the time.
func (e *Engine) Exec(container, program string, args ...string) (string, error) {
	e.t.Helper()
	c, err := e.container(container)
	if err == nil && c.State.Pid == 0 {
		err = fmt.Errorf("container %s does not run", container)
	}
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/bin"}
	return output(2*time.Minute, cmd, func() error {
		return startIn(cmd, func() error { return enterAll(e.Outer(fmt.Sprintf("/proc/%d", c.State.Pid))) })
	})
}

// Dial begins a conversation of a container with a server; it ends with the test.
func (e *Engine) Dial(container, network, address string) *hello.Conn {
	e.t.Helper()
	return e.Inside(container).Dial(network, address)
}

// Inside is a container's network as a machine, on which the programs of the test itself
// run: that needs nothing in the container, and costs less than docker exec.
func (e *Engine) Inside(container string) *Host {
	e.t.Helper()
	c, err := e.container(container)
	if err != nil {
		e.t.Fatal(err)
	}
	ns, err := netns.GetFromPath(e.Outer(fmt.Sprintf("/proc/%d/ns/net", c.State.Pid)))
	if err != nil {
		e.t.Fatalf("network of container %s: %v", container, err)
	}
	h := &Host{t: e.t, name: container, ns: ns}
	e.t.Cleanup(h.close)
	return h
}

// importImage makes Image out of two files; no registry is asked.
func (e *Engine) importImage() {
	e.t.Helper()
	archive, err := imageArchive(e.debian+"/bin/busybox", goBuild(e.t, "test/lab/peer"))
	if err != nil {
		e.t.Fatalf("make the image: %v", err)
	}
	if err := e.load(archive, Image, `CMD ["peer","serve","tcp:80","udp:80"]`); err != nil {
		e.t.Fatal(err)
	}
}

func imageArchive(busybox, peer string) ([]byte, error) {
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list applets: %w", err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, file := range []string{busybox, peer} {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		header := &tar.Header{Name: "bin/" + filepath.Base(file), Mode: 0o755, Size: int64(len(content))}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet == "busybox" {
			continue
		}
		header := &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}); err != nil {
		return nil, err
	}
	return archive.Bytes(), w.Close()
}
