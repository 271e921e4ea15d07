package foreign

import "github.com/google/nftables/expr"

// Networks differ to others by their bridges' names and addresses only, and most rules
// name none of them. So of a thousand networks one is judged, and what its packets were
// asked on the way is asked of the others' too: who gives the same answers meets the
// same rules.

// question is a part of one of a way's packets with which rules compare something.
type question struct {
	packet    int // which one
	field     field
	mask, xor string
	length    int    // of what it is compared with
	set       string // in which it is looked up
}

// field is what a rule loads of a packet.
type field struct {
	meta           expr.MetaKey
	payload        bool
	offset, length uint32
}

func (f field) of(p packet) []byte {
	if f.payload {
		return p.payload(&expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: f.length})
	}
	return p.meta(f.meta)
}

func (q question) value(p packet) []byte {
	v := q.field.of(p)
	if q.mask != "" {
		v = masked(v, []byte(q.mask), []byte(q.xor))
	}
	return v
}

// kin are the ways of which one was judged.
type kin struct {
	first way
	cause string // what stops them, "" if nothing does
	asked map[question]map[string]bool
}

func (j *judge) note(q question, constant []byte) {
	if j.asked[q] == nil {
		j.asked[q] = map[string]bool{}
	}
	j.asked[q][string(constant)] = true
}

// verdict is what stops a way, "" if nothing does.
func (j *judge) verdict(w way, judged map[course][]kin, stops func(way) string) string {
	for _, k := range judged[w.course()] {
		if j.alike(k, w) {
			return k.cause
		}
	}
	j.asked = map[question]map[string]bool{}
	k := kin{first: w, cause: stops(w), asked: j.asked}
	judged[w.course()] = append(judged[w.course()], k)
	return k.cause
}

func (j *judge) alike(k kin, w way) bool {
	for q, constants := range k.asked {
		if j.answer(q, constants, k.first.packet(q.packet)) != j.answer(q, constants, w.packet(q.packet)) {
			return false
		}
	}
	return true
}

// reply is an answer to a question.
type reply struct {
	known    bool
	constant string // which of those it is; "" for none
	element  element
}

func (j *judge) answer(q question, constants map[string]bool, p packet) reply {
	value := q.value(p)
	switch {
	case q.set != "":
		return reply{element: j.element(q.set, value)}
	case value == nil || len(value) < q.length:
		return reply{}
	case constants[string(value[:q.length])]:
		return reply{known: true, constant: string(value[:q.length])}
	}
	return reply{known: true}
}
