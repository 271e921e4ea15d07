package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drawbridge-net/drawbridge/test/lab"
)

// troubled is a host on which Drawbridge meets trouble: without an engine, whose part the
// test plays, and with one container that publishes port 8080 and is asked all the time.
type troubled struct {
	*lab.Lab
	*lab.Alone
	t *testing.T
	// quiet ends the questions.
	quiet func()
	// forgets says that what the host's settings were like is lost with all else.
	forgets bool
	// hadTables says that iptables was used, whose tables stay, empty.
	hadTables bool
}

// inTrouble runs a scenario. At its end all is removed, and nothing may be left.
func inTrouble(t *testing.T, prepare, scenario func(s *troubled)) {
	t.Helper()
	t.Parallel()
	l := lab.New(t)
	s := &troubled{Lab: l, Alone: l.Host.Alone(), t: t}
	before := l.Host.Snapshot()
	prepare(s)
	s.MustStart()
	s.must(s.addNetwork(1))
	s.must(s.addContainer(1))
	s.quiet = lab.Steadily(t, "the published port of a container that was there before", func() error {
		_, err := s.Outside.Ask("tcp", "192.0.2.1:8081")
		return err
	})
	scenario(s)
	s.quiet()
	if t.Failed() {
		return
	}
	s.must(s.removeContainer(1))
	s.must(s.removeNetwork(1))
	if out, err := s.Drawbridge("remove"); err != nil {
		t.Fatalf("remove: %v\n%s", err, out)
	}
	ours := func(section, line string) bool {
		return section == "sysctls" && s.forgets || s.hadTables && emptyTable.MatchString(line)
	}
	if diff := before.Without(ours).Diff(l.Host.Snapshot().Without(ours)); diff != "" {
		t.Errorf("the host is not as it was:\n%s", diff)
	}
}

func (s *troubled) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// refuses fails the test unless an error says all of this.
func (s *troubled) refuses(err error, parts ...string) {
	s.t.Helper()
	if err == nil {
		s.t.Fatalf("no error; want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			s.t.Errorf("the error lacks %q: %v", part, err)
		}
	}
}

// tells fails the test unless log and status say this.
func (s *troubled) tells(parts ...string) {
	s.t.Helper()
	status, _ := s.Drawbridge("status") // it ends with 1 where the host is not as planned
	for _, part := range parts {
		if !strings.Contains(s.Log(), part) {
			s.t.Errorf("the log lacks %q", part)
		}
		if !strings.Contains(status, part) {
			s.t.Errorf("status lacks %q:\n%s", part, status)
		}
	}
}

// The nth network has the nth subnet, and the nth container is on the first network, has
// its nth address and publishes port 8080+n.
func networkOf(n int) string   { return fmt.Sprintf("%012x%052x", 0xabc000+n, 0) }
func containerOf(n int) string { return fmt.Sprintf("%012x%052x", 0xdef000+n, 0) }

func (s *troubled) addNetwork(n int) error {
	return s.Ask("NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID":%q,"Options":{"com.docker.network.enable_ipv4":true},
		"IPv4Data":[{"AddressSpace":"x","Gateway":"172.30.%[2]d.1/24","Pool":"172.30.%[2]d.0/24"}],"IPv6Data":[]}`, networkOf(n), n))
}

func (s *troubled) removeNetwork(n int) error {
	return s.Ask("NetworkDriver.DeleteNetwork", fmt.Sprintf(`{"NetworkID":%q}`, networkOf(n)))
}

// call is one about a container.
func (s *troubled) call(method string, n int, more string) error {
	return s.Ask("NetworkDriver."+method, fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q%s}`, networkOf(1), containerOf(n), more))
}

// addContainer does what an engine does for a container that serves, and takes all of it
// back should that come to nothing.
func (s *troubled) addContainer(n int) error {
	s.t.Helper()
	err := s.call("CreateEndpoint", n, fmt.Sprintf(`,"Interface":{"Address":"172.30.1.%d/24"},"Options":{}`, 1+n))
	if err != nil {
		return err
	}
	sandbox := lab.NewHost(s.t)
	err = s.call("Join", n, fmt.Sprintf(`,"SandboxKey":%q,"Options":{}`, sandbox.Netns()))
	if err == nil {
		peer := "dbp" + containerOf(n)[:12]
		s.Host.Run("ip", "link", "set", peer, "netns", sandbox.Netns())
		sandbox.Run("sh", "-ec", fmt.Sprintf("ip link set %s name eth0 up; ip addr add 172.30.1.%d/24 dev eth0; ip route add default via 172.30.1.1", peer, 1+n))
		sandbox.Serve("tcp", ":80")
		err = s.call("ProgramExternalConnectivity", n, fmt.Sprintf(`,"Options":{"com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":%d,"HostPortEnd":%[1]d}]}`, 8080+n))
	}
	if err != nil {
		return errors.Join(err, s.removeContainer(n))
	}
	return nil
}

// removeContainer takes the container's end back first, as engines do.
func (s *troubled) removeContainer(n int) error {
	err := errors.Join(s.call("RevokeExternalConnectivity", n, ""), s.call("Leave", n, ""))
	_, _ = s.Host.Try("ip", "link", "delete", "dbv"+containerOf(n)[:12]) // as it goes with its sandbox
	return errors.Join(err, s.call("DeleteEndpoint", n, ""))
}

// servesOneMore fails the test unless a container can be added that is reached by its port.
func (s *troubled) servesOneMore() {
	const n = 2
	s.t.Helper()
	s.must(s.addContainer(n))
	s.Outside.MustReach("tcp", fmt.Sprintf("192.0.2.1:%d", 8080+n), "host")
	s.must(s.removeContainer(n))
}

func TestEngineIsToldOfAFullDiskAndWhatRunsGoesOn(t *testing.T) {
	inTrouble(t, func(s *troubled) {
		s.StateDir = filepath.Join(lab.Disk(t, "300k"), "var", "lib")
		s.RunDir = filepath.Join(lab.Disk(t, "300k"), "run")
	}, func(s *troubled) {
		const remedy = ": no space left on device: free some on its file system"
		free := lab.Fill(s.t, s.StateDir)
		s.refuses(s.fillNetworks(), "create network ", "write "+s.StateDir+"/state.db"+remedy)
		s.servesOneMore() // which needs no disk
		free()
		s.must(s.addNetwork(251))
		free = lab.Fill(s.t, s.RunDir)
		var err error
		for n := 2; err == nil && n < 250; n++ {
			err = s.addContainer(n)
		}
		s.refuses(err, "write "+s.RunDir+"/boot.db"+remedy)
		free()
		for n := 2; n < 250; n++ {
			s.must(errors.Join(s.removeContainer(n), s.removeNetwork(n)))
		}
		s.must(s.removeNetwork(251))
		s.servesOneMore()
	})
}

// fillNetworks adds networks until one is refused.
func (s *troubled) fillNetworks() (err error) {
	for n := 2; err == nil && n < 250; n++ {
		err = s.addNetwork(n)
	}
	return err
}

func TestEngineIsServedAfterADaemonThatCouldNotStart(t *testing.T) {
	nothing := func(*troubled) {}
	inTrouble(t, nothing, func(s *troubled) {
		home := s.StateDir
		for name, row := range map[string]struct {
			trouble func(a *lab.Alone)
			args    []string
			want    []string
		}{
			"the disk is read-only": {
				trouble: func(a *lab.Alone) { a.StateDir = lab.ReadOnlyDisk(t) },
				want:    []string{"/state.db: read-only file system: remount it so that it can be written"},
			},
			"the disk is full": {
				trouble: func(a *lab.Alone) { a.StateDir = lab.Disk(t, "16k"); lab.Fill(t, a.StateDir) },
				want:    []string{"/state.db", ": no space left on device: free some on its file system"},
			},
			"the state is a directory": {
				trouble: func(a *lab.Alone) {
					a.StateDir = t.TempDir()
					s.must(os.Mkdir(filepath.Join(a.StateDir, "state.db"), 0o700))
				},
				want: []string{"/state.db: it is no file (d", "move it away"},
			},
			"no CAP_NET_ADMIN": {
				trouble: func(a *lab.Alone) { a.Wrap = without("net_admin") },
				want:    []string{"CAP_NET_ADMIN is missing", "CapabilityBoundingSet"},
			},
			"no iptables": {
				trouble: func(a *lab.Alone) { a.Before = "PATH=/nonexistent" },
				args:    []string{"--firewall=iptables"},
				want:    []string{"install iptables 1.8 or newer"},
			},
			"no files": {
				trouble: func(a *lab.Alone) { a.Wrap = append(without("sys_resource"), "prlimit", "--nofile=14:14", "--") },
				want:    []string{"too many open files", "LimitNOFILE"},
			},
		} {
			s.Kill()
			row.trouble(s.Alone)
			err := s.Start(row.args...)
			if err == nil {
				s.t.Fatalf("%s: it starts", name)
			}
			s.refuses(err, row.want...)
			s.StateDir, s.Before, s.Wrap = home, "", nil
			s.MustStart()
			s.servesOneMore()
		}
	})
}

// without are words that take a capability away from a command.
func without(capability string) []string {
	return []string{"setpriv", "--bounding-set=-" + capability, "--inh-caps=-" + capability, "--"}
}

// TestEngineLosesNothingWithADamagedState whether the daemon is away meanwhile or has the
// files in use: what it cannot read it has once more.
func TestEngineLosesNothingWithADamagedState(t *testing.T) {
	inTrouble(t, func(*troubled) {}, func(s *troubled) {
		for round, damage := range []func([]byte) []byte{
			func(b []byte) []byte { return b[:1+rand.IntN(3*os.Getpagesize())] }, // what is used begins with four pages
			func([]byte) []byte { return nil },
			func(b []byte) []byte {
				for i := range 64 { // in each of the pages
					b[(i*509)%len(b)] ^= 0xff
				}
				return b
			},
			func([]byte) []byte { return bytes.Repeat([]byte("what is this? "), 3000) },
		} {
			s.Kill()
			for _, file := range []string{filepath.Join(s.StateDir, "state.db"), filepath.Join(s.RunDir, "boot.db")} {
				content, err := os.ReadFile(file)
				s.must(err)
				s.must(os.WriteFile(file, damage(content), 0o600))
			}
			s.MustStart()
			s.tells(filepath.Join(s.StateDir, "state.db")+" ", filepath.Join(s.RunDir, "boot.db")+" ", "what it held is back from its copy")
			s.servesOneMore()
			if aside, _ := filepath.Glob(filepath.Join(s.StateDir, "state.db.damaged-*")); len(aside) != max(1, round) { // an empty one is not kept
				s.t.Errorf("round %d: set aside: %v", round, aside)
			}
		}
		for how, damage := range map[string]func(path string) error{
			"was cut short while it was in use":                     func(path string) error { return os.Truncate(path, 0) },
			"was written to by somebody else while it was in use":   scribble,
			"was removed while it was in use; what it held is back": os.Remove,
		} {
			for _, file := range []string{filepath.Join(s.StateDir, "state.db"), filepath.Join(s.RunDir, "boot.db")} {
				s.must(damage(file))
			}
			s.must(s.addNetwork(2))
			s.must(s.removeNetwork(2))
			s.servesOneMore()
			s.tells(filepath.Join(s.StateDir, "state.db")+" "+how, filepath.Join(s.RunDir, "boot.db")+" "+how)
		}
		s.Kill()
		s.MustStart()
		s.refuses(s.call("CreateEndpoint", 3, `,"Interface":{"Address":"172.30.1.2/24"},"Options":{}`), "172.30.1.2") // which the container has
	})
}

// scribble writes over what is in the middle of a file.
func scribble(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(bytes.Repeat([]byte{0xff, 0}, os.Getpagesize()), int64(os.Getpagesize()))
	return errors.Join(err, f.Close())
}

// TestEngineIsAnsweredForWhatNothingIsRememberedOf when the copies are lost too: whoever
// was connected stays so, status names him, and all of it can be removed.
func TestEngineIsAnsweredForWhatNothingIsRememberedOf(t *testing.T) {
	inTrouble(t, func(*troubled) {}, func(s *troubled) {
		s.must(s.addContainer(2))
		s.quiet() // a published port ends with what is remembered of it
		s.forgets = true
		s.Kill()
		s.must(errors.Join(os.RemoveAll(s.StateDir), os.RemoveAll(s.RunDir)))
		s.MustStart()
		veth := "dbv" + containerOf(2)[:12]
		if out, _ := s.Drawbridge("status"); !strings.Contains(out, "link "+veth+" leads to a container of whose endpoint nothing is remembered") {
			s.t.Errorf("status:\n%s", out)
		}
		s.Host.MustReach("tcp", "172.30.1.3:80", "host")
		s.refuses(s.addContainer(3), "network 000000abc001", "not found")
		// What an engine says when containers and network end.
		s.must(s.removeContainer(2))
		s.must(s.removeContainer(1))
		s.must(s.removeNetwork(1))
		lab.Until(s.t, "what nobody needs is gone", func() error {
			out, err := s.Drawbridge("status")
			if err != nil || strings.Contains(out, "nothing is remembered") {
				return fmt.Errorf("%w\n%s", err, out)
			}
			return nil
		})
		s.must(s.addNetwork(1))
		s.must(s.addContainer(1))
	})
}

// TestEngineIsToldWhatAnInterfaceOfOurNameIs when it is somebody else's.
func TestEngineIsToldWhatAnInterfaceOfOurNameIs(t *testing.T) {
	inTrouble(t, func(*troubled) {}, func(s *troubled) {
		bridge, veth := "dbr"+networkOf(2)[:12], "dbv"+containerOf(2)[:12]
		s.Host.Run("sh", "-ec", fmt.Sprintf("ip link add %s type veth peer name %s", bridge, veth))
		s.refuses(s.addNetwork(2), bridge, "it is a veth link and not ours", "ip link delete "+bridge)
		s.refuses(s.addContainer(2), veth, "it is a veth link and not ours", "ip link delete "+veth)
		s.Host.Run("sh", "-ec", fmt.Sprintf("ip link show %s; ip link show %s; ip link delete %[1]s", bridge, veth))
		s.must(s.addNetwork(2))
		s.must(s.removeNetwork(2))
		s.servesOneMore()
	})
}

// TestEngineIsToldOfSettingsThatCannotBeWritten and how they can.
func TestEngineIsToldOfSettingsThatCannotBeWritten(t *testing.T) {
	inTrouble(t, func(*troubled) {}, func(s *troubled) {
		s.Kill()
		s.Before = "mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys"
		s.MustStart()
		s.refuses(s.addNetwork(2), "read-only file system", "/proc/sys", "--sysctls")
		s.Kill()
		s.Before = ""
		s.MustStart()
		s.must(s.addNetwork(2))
		s.must(s.removeNetwork(2))
		s.servesOneMore()
	})
}

// TestEngineIsToldOfTooFewFiles and those who have theirs keep them.
func TestEngineIsToldOfTooFewFiles(t *testing.T) {
	inTrouble(t, func(s *troubled) {
		s.Wrap = append(without("sys_resource"), "prlimit", "--nofile=400:400", "--")
	}, func(s *troubled) {
		var ports []string
		for n := range 100 {
			ports = append(ports, fmt.Sprintf(`{"Proto":17,"Port":%d,"HostPort":%[1]d,"HostPortEnd":%[1]d}`, 10000+n))
		}
		s.must(s.addContainer(2))
		all := `,"Options":{"com.docker.network.portmap":[` + strings.Join(ports, ",") + `]}`
		s.refuses(s.call("ProgramExternalConnectivity", 2, all), "too many open files", "LimitNOFILE")
		s.must(s.removeContainer(2))
		s.servesOneMore()
	})
}
