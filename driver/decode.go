package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep a request may be nested. Engines use four levels.
const maxDepth = 32

// subject is whom a request is about, as far as it says so.
type subject struct{ network, endpoint string }

// decode reads exactly one JSON value into a wire type. Fields that the type lacks
// are ignored; a field of a wrong type, or one given twice, is refused by name.
func decode(body []byte, into any) (subject, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		// What the engine sends when it repeats a call after a lost connection.
		return subject{}, errors.New("request has no body; nothing was done, try again")
	}
	if !utf8.Valid(body) {
		// The decoder would put other characters in the place of what it cannot read.
		return subject{}, errors.New("request is not JSON: it is not in UTF-8")
	}
	if err := json.Unmarshal(body, into); err != nil {
		return subject{}, decodeError(body, err)
	}
	s := scanner{body: body, dec: json.NewDecoder(bytes.NewReader(body))}
	err := s.value(1, false)
	return s.about, err
}

func decodeError(body []byte, err error) error {
	wrong := (*json.UnmarshalTypeError)(nil)
	if !errors.As(err, &wrong) {
		return fmt.Errorf("request is not JSON: %w", err)
	}
	want := wrong.Type.String()
	switch wrong.Type.Kind() {
	case reflect.String:
		want = "a string"
	case reflect.Bool:
		want = "true or false"
	case reflect.Int:
		want = "a whole number"
	case reflect.Slice:
		want = "a list"
	case reflect.Map, reflect.Struct, reflect.Pointer:
		want = "an object"
	}
	what := "request"
	if field := wrong.Field; field != "" {
		// Where it comes from an embedded wire type, that type's name stands first.
		if first, rest, ok := strings.Cut(field, "."); ok && strings.HasSuffix(first, "Request") {
			field = rest
		}
		what = "field " + excerpt(field, 80)
	}
	return fmt.Errorf("%s: want %s, got %s", what, want, given(body, wrong))
}

// given is the value that was refused, or of one with others in it what it is.
func given(body []byte, wrong *json.UnmarshalTypeError) string {
	switch wrong.Value {
	case "array":
		return "a list"
	case "object":
		return "an object"
	}
	tokens := json.NewDecoder(bytes.NewReader(body))
	tokens.UseNumber() // of any size
	for before := int64(0); ; before = tokens.InputOffset() {
		if _, err := tokens.Token(); err != nil {
			return excerpt(wrong.Value, 80)
		}
		if after := tokens.InputOffset(); after >= wrong.Offset {
			return excerpt(string(trim(body[before:after])), 80)
		}
	}
}

// trim takes off what stands between two tokens.
func trim(text []byte) []byte { return bytes.TrimLeft(text, " \t\r\n:,") }

// scanner walks over a value that is known to be JSON and looks for what
// encoding/json lets pass: keys given twice, and any depth.
type scanner struct {
	body  []byte
	dec   *json.Decoder
	about subject
}

// value reads the next value. Within free, keys are a person's and differ where
// they are spelled differently; elsewhere they are names of fields, which
// encoding/json compares without regard to case.
func (s *scanner) value(depth int, free bool) error {
	if depth > maxDepth {
		return fmt.Errorf("request is nested deeper than %d levels", maxDepth)
	}
	token, err := s.dec.Token()
	if err != nil {
		return err
	}
	switch token {
	case json.Delim('{'):
		err = s.object(depth, free)
	case json.Delim('['):
		for err == nil && s.dec.More() {
			err = s.value(depth+1, free)
		}
	default:
		return nil
	}
	if err == nil {
		_, err = s.dec.Token() // the closing bracket
	}
	return err
}

func (s *scanner) object(depth int, free bool) error {
	seen := map[string][]byte{}
	for s.dec.More() {
		token, err := s.dec.Token()
		if err != nil {
			return err
		}
		key, name := token.(string), token.(string)
		if !free {
			name = fold(key)
		}
		begin := s.dec.InputOffset()
		if depth == 1 {
			err = s.field(name)
		} else {
			err = s.value(depth+1, free || freeKeys(name))
		}
		if err != nil {
			return err
		}
		value := trim(s.body[begin:s.dec.InputOffset()])
		if before, again := seen[name]; again {
			return fmt.Errorf("field %s is given twice, as %s and %s", excerpt(key, 80), excerpt(string(before), 80), excerpt(string(value), 80))
		}
		seen[name] = value
	}
	return nil
}

// field reads a field of the request itself and notes whom it is about.
func (s *scanner) field(name string) error {
	switch name {
	case "networkid":
		return s.id(&s.about.network)
	case "endpointid":
		return s.id(&s.about.endpoint)
	}
	return s.value(2, freeKeys(name))
}

// id reads a string; it is bounded because the log is not the place for more.
func (s *scanner) id(to *string) error {
	token, err := s.dec.Token()
	if text, ok := token.(string); ok {
		*to = excerpt(text, 64)
	}
	return err
}

// fold makes one of all spellings that encoding/json takes for the same name: it
// knows that the long s and the Kelvin sign are letters, too.
func fold(name string) string { return strings.ToLower(strings.ToUpper(name)) }

func freeKeys(name string) bool { return name == "options" || name == "auxaddresses" }
