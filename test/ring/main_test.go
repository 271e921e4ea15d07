package main

import (
	"errors"
	"strings"
	"testing"
)

func TestRingJudgesWhatRan(t *testing.T) {
	for _, row := range []struct {
		name, events string
		exit         error
		want         string // of the error; empty for none
		printed      string
	}{
		{
			name:    "one test that passed is enough",
			events:  `{"Action":"pass","Package":"p","Test":"TestA"}`,
			printed: "",
		},
		{
			name:   "a ring in which nothing ran fails",
			events: `{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s [no tests to run]\n"}`,
			want:   "no test passed",
		},
		{
			name: "a skip that names what the kernel lacks is fine",
			events: `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"kernel lacks nft_fib\n"}
{"Action":"skip","Package":"p","Test":"TestB"}`,
			printed: "kernel lacks nft_fib\n",
		},
		{
			name: "any other skip fails the ring",
			events: `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"not today\n"}
{"Action":"skip","Package":"p","Test":"TestB"}`,
			want:    "not today",
			printed: "not today\n",
		},
		{
			name: "a failure is printed in full, a success not at all",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"quiet\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"loud\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}`,
			exit:    errors.New("exit status 1"),
			want:    "exit status 1",
			printed: "loud\nFAIL\tp\t0.1s\n",
		},
		{
			name:    "a build that fails is shown",
			events:  `{"Action":"build-output","ImportPath":"p","Output":"undefined: x\n"}`,
			exit:    errors.New("exit status 1"),
			want:    "exit status 1",
			printed: "undefined: x\n",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			var out strings.Builder
			r := report{out: &out, output: map[test][]string{}}
			if err := r.read(strings.NewReader(row.events)); err != nil {
				t.Fatal(err)
			}
			err := r.judge(row.exit)
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("error %v, want %q", err, row.want)
			}
			if out.String() != row.printed {
				t.Errorf("printed %q, want %q", out.String(), row.printed)
			}
		})
	}
}

func TestRingSaysInShortWhatFailedWhere(t *testing.T) {
	for _, row := range []struct {
		name        string
		lines, want []string
	}{
		{
			name: "two lines of each complaint, and not the logs",
			lines: []string{
				"=== RUN   TestA\n",
				"    a_test.go:12: want 1,\n",
				"        got 2,\n",
				"        which is too much\n",
				"    world.go:198: the end of engine.log:\n",
				"        level=info msg=\"a_test.go:1: it\"\n",
				"        level=info msg=\"a_test.go:1: is\"\n",
				"        level=info msg=\"a_test.go:1: long\"\n",
				"--- FAIL: TestA (0.10s)\n",
			},
			want: []string{
				"    a_test.go:12: want 1,\n",
				"        got 2,\n",
				"    world.go:198: the end of engine.log:\n",
				"        level=info msg=\"a_test.go:1: it\"\n",
				"--- FAIL: TestA (0.10s)\n",
			},
		},
		{
			name: "what it panicked with",
			lines: []string{
				"=== RUN   TestA\n",
				"--- FAIL: TestA (0.10s)\n",
				"panic: runtime error: index out of range [1] with length 1 [recovered, repanicked]\n",
				"\n",
				"goroutine 7 [running]:\n",
				"testing.tRunner.func1.2({0x54c0a0, 0xc000012345})\n",
				"\t/usr/local/go/src/testing/testing.go:1872 +0x237\n",
			},
			want: []string{
				"--- FAIL: TestA (0.10s)\n",
				"panic: runtime error: index out of range [1] with length 1 [recovered, repanicked]\n",
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got, want := inShort(row.lines), strings.Join(row.want, ""); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
