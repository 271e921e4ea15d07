package bench

import (
	"encoding/json"
	"os"
	"slices"
)

// Run is all that was measured on one engine.
type Run struct {
	Engine  string   `json:"engine"`  // its version, e.g. 20.10.24
	Machine string   `json:"machine"` // e.g. 2 processors, Linux 6.18.0
	Date    string   `json:"date"`    // e.g. 2026-11-22
	Load    []string `json:"load"`    // how many others ran at the beginning and at the end, e.g. 0.52
	Results []Result `json:"results"`
}

// Result is what was measured of one load on one network, once a round.
type Result struct {
	Network string   `json:"network"`
	Load    string   `json:"load"`
	Samples []Sample `json:"samples"`
}

// Sample is what was measured once. What was not measured is 0: with an overrun the
// removal, or all.
type Sample struct {
	Start   float64 `json:"start"`   // milliseconds
	Removal float64 `json:"removal"` // milliseconds
	Memory
	Connections
	Overrun string `json:"overrun,omitempty"` // how long was waited in vain
}

// Memory is what whoever serves networks occupies.
type Memory struct {
	MiB       float64 `json:"mib,omitempty"`       // of the engine, its proxies and Drawbridge
	Ours      float64 `json:"ours,omitempty"`      // of Drawbridge alone, in MiB
	Processes int     `json:"processes,omitempty"` // their number
}

// Connections are those that clients begin, one after the other.
type Connections struct {
	PerSecond float64 `json:"per_second,omitempty"`
	Cost      float64 `json:"cost,omitempty"` // of each, processor time at the client's side in microseconds
}

func (r *Run) add(network, load string, s Sample) {
	i := slices.IndexFunc(r.Results, func(x Result) bool { return x.Network == network && x.Load == load })
	if i < 0 {
		r.Results = append(r.Results, Result{Network: network, Load: load})
		i = len(r.Results) - 1
	}
	r.Results[i].Samples = append(r.Results[i].Samples, s)
}

// of returns the samples of a load on a network, none if it was not measured.
func (r *Run) of(network, load string) samples {
	for _, x := range r.Results {
		if x.Network == network && x.Load == load {
			return x.Samples
		}
	}
	return nil
}

// loads lists the loads that were measured, as first met.
func (r *Run) loads() []string {
	var all []string
	for _, x := range r.Results {
		if !slices.Contains(all, x.Load) {
			all = append(all, x.Load)
		}
	}
	return all
}

type samples []Sample

// overrun returns how long was waited in vain for one of them, "" for none.
func (all samples) overrun() string {
	for _, s := range all {
		if s.Overrun != "" {
			return s.Overrun
		}
	}
	return ""
}

// started reports whether every container came to be.
func (all samples) started() bool { return len(all) > 0 && all.sorted(start)[0] > 0 }

// median of one thing that was measured, the mean of the middle two if their number is
// even; 0 of nothing.
func (all samples) median(of func(Sample) float64) float64 {
	if len(all) == 0 {
		return 0
	}
	sorted := all.sorted(of)
	half := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[half-1] + sorted[half]) / 2
	}
	return sorted[half]
}

// sorted lists one thing that was measured from least to most.
func (all samples) sorted(of func(Sample) float64) []float64 {
	var values []float64
	for _, s := range all {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values
}

func start(s Sample) float64     { return s.Start }
func removal(s Sample) float64   { return s.Removal }
func mib(s Sample) float64       { return s.MiB }
func ours(s Sample) float64      { return s.Ours }
func processes(s Sample) float64 { return float64(s.Processes) }
func perSecond(s Sample) float64 { return s.PerSecond }
func cost(s Sample) float64      { return s.Cost }

// readRun reads what write wrote.
func readRun(file string) (*Run, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &Run{}
	return r, json.Unmarshal(text, r)
}

func (r *Run) write(file string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644) //nolint:gosec // for everybody to read
}
