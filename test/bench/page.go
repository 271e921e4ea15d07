package bench

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// columns are the networks that tables compare; the last column is the first of them
// divided by the second.
func columns() []string {
	return []string{bridge().name, drawbridge("nftables").name, drawbridge("iptables").name}
}

// Times is the table of starts and removals.
func (r *Run) Times() string {
	return r.table("published ports", func(all samples) string {
		return r.time(all, start) + " / " + cmp.Or(all.overrun(), r.time(all, removal))
	}, func(docker, ours samples) string {
		return quotient(docker.median(start), ours.median(start)) + " / " + quotient(docker.median(removal), ours.median(removal))
	})
}

// time is the whole and, in parentheses, what of it is not there without a network.
func (r *Run) time(all samples, of func(Sample) float64) string {
	whole := all.median(of)
	cost := number(whole - r.of(none().name, "0").median(of))
	if !strings.HasPrefix(cost, "-") {
		cost = "+" + cost
	}
	return number(whole) + " (" + cost + ")"
}

// Floor says what a container costs without a network, from the least to the most.
func (r *Run) Floor() string {
	all := r.of(none().name, "0")
	if len(all) == 0 {
		return ""
	}
	span := func(of func(Sample) float64) string {
		sorted := all.sorted(of)
		return fmt.Sprintf("%.0f ms (%.0f to %.0f)", all.median(of), sorted[0], sorted[len(sorted)-1])
	}
	return fmt.Sprintf("start %s, removal %s", span(start), span(removal))
}

// Rounds is how often each thing was measured, save what Docker's bridge needs minutes for.
func (r *Run) Rounds() int { return len(r.of(none().name, "0")) }

// Occupied is the table of memory.
func (r *Run) Occupied() string {
	return r.table("published by others", func(all samples) string {
		if all.median(mib) == 0 {
			return ""
		}
		own := ""
		if of := all.median(ours); of > 0 {
			own = " (" + number(of) + ")"
		}
		return fmt.Sprintf("%s%s in %s", number(all.median(mib)), own, number(all.median(processes)))
	}, func(docker, ours samples) string { return quotient(docker.median(mib), ours.median(mib)) })
}

// Begun is the table of new connections.
func (r *Run) Begun() string {
	return r.table("published by others", func(all samples) string {
		if all.median(perSecond) == 0 {
			return ""
		}
		return number(all.median(perSecond)) + " / " + number(all.median(cost))
	}, func(docker, ours samples) string {
		return quotient(docker.median(perSecond), ours.median(perSecond)) + " / " + quotient(docker.median(cost), ours.median(cost))
	})
}

// table has a row for each load of which a cell is known, "" for what is not, and a
// column for each network.
func (r *Run) table(corner string, cell func(samples) string, ratio func(docker, ours samples) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s | the first ÷ the second |\n|%s\n", corner, strings.Join(columns(), " | "), strings.Repeat(" --- |", len(columns())+2))
	for _, load := range r.loads() {
		row := []string{load}
		known := false
		for _, network := range columns() {
			text, ok := tell(r.of(network, load), cell)
			row = append(row, text)
			known = known || ok
		}
		docker, ours := r.of(columns()[0], load), r.of(columns()[1], load)
		if docker.started() && ours.started() {
			row = append(row, ratio(docker, ours))
		} else {
			row = append(row, "")
		}
		if known {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		}
	}
	return b.String()
}

// tell writes a cell, and reports whether it says something that was measured.
func tell(all samples, cell func(samples) string) (text string, measured bool) {
	switch {
	case len(all) == 0:
		return "not tried", false
	case !all.started():
		return all.overrun(), false
	}
	text = cell(all)
	return text, text != ""
}

// number writes 12345.6 as 12 346.
func number(x float64) string {
	digits := strconv.FormatInt(int64(math.Round(x)), 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + " " + digits[i:]
	}
	return digits
}

// quotient writes how much more, e.g. 1.9 or 120, or – if one of both is not known.
func quotient(a, b float64) string {
	switch {
	case a == 0 || b == 0:
		return "–"
	case a/b < 10:
		return strconv.FormatFloat(a/b, 'f', 1, 64)
	}
	return number(a / b)
}
