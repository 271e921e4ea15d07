package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sirupsen/logrus"

	"github.com/drawbridge-net/drawbridge/failpoint"
)

// maxBody bounds a request. A container that publishes every port of both
// protocols makes about 20 MB of it.
const maxBody = 32 << 20

// bodyPatience is how long a request may take to arrive once it has begun: engines send
// the largest within a second.
const bodyPatience = 30 * time.Second

// maxErrorText bounds an error in an answer: it ends on somebody's terminal.
const maxErrorText = 2048

// contentType is what the engine says that it accepts.
const contentType = "application/vnd.docker.plugins.v1.2+json"

// A handler answers one call, given the request's body.
type handler func(ctx context.Context, body []byte) (subject, any, error)

// nothing is a request without arguments, or an answer that only says yes.
type nothing struct{}

// route makes a handler of a function from one wire type to another.
func route[Req, Resp any](answer func(context.Context, *Req) (*Resp, error)) handler {
	return func(ctx context.Context, body []byte) (subject, any, error) {
		req := new(Req)
		_, argumentless := any(req).(*nothing)
		var about subject
		if len(body) > 0 || !argumentless {
			var err error
			if about, err = decode(body, req); err != nil {
				return about, nil, &statusError{http.StatusBadRequest, err}
			}
		}
		resp, err := answer(ctx, req)
		return about, resp, err
	}
}

// statusError is a failure of the conversation. A call that was understood and
// refused is none: it is answered with 200, because the engine then shows the text
// as it is and otherwise puts the name of the method before it.
type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// refusal is an error on the wire: NetworkDriver reads Err, IpamDriver reads Error,
// and both read Err if the status is not 200.
type refusal struct{ Err, Error string }

// serve answers one request and writes one line about it into the log.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	if failpoint.Step("driver", "take "+method(r)) != nil {
		panic(http.ErrAbortHandler)
	}
	about, answer, err := s.dispatch(w, r)
	status := http.StatusOK
	if err != nil {
		text := errorText(err)
		answer = refusal{text, text}
		if e := (*statusError)(nil); errors.As(err, &e) {
			status = e.status
		}
	}
	if failpoint.Step("driver", "answer "+method(r)) != nil {
		panic(http.ErrAbortHandler)
	}
	write(w, status, answer)
	s.logRequest(r, about, err, time.Since(start))
}

// dispatch finds the handler and calls it. A panic in it fails this one request.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) (about subject, answer any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.WithFields(logrus.Fields{"method": method(r), "stack": string(debug.Stack())}).Errorf("panic: %s", excerpt(fmt.Sprint(p), maxErrorText))
			err = &statusError{http.StatusInternalServerError, errors.New("internal error, its cause is in the log of drawbridge")}
		}
	}()
	if err := expectBy(w, time.Now().Add(bodyPatience)); err != nil {
		return about, nil, err
	}
	answerTo, known := s.routes[r.URL.Path]
	switch {
	case r.ContentLength > maxBody:
		w.Header().Set("Connection", "close") // and nothing of it is read
		return about, nil, &statusError{http.StatusRequestEntityTooLarge, fmt.Errorf("request is larger than %d bytes", maxBody)}
	case !known:
		return about, nil, &statusError{http.StatusNotFound, fmt.Errorf("no such call: %s", method(r))}
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		return about, nil, &statusError{http.StatusMethodNotAllowed, fmt.Errorf("method %.20s: want POST", r.Method)}
	}
	body, err := receive(w, r)
	if err != nil {
		return about, nil, err
	}
	s.callers.hear(r.Context())
	return answerTo(r.Context(), body)
}

// expectBy is when the rest of a request must have come; the zero Time for whenever.
func expectBy(w http.ResponseWriter, when time.Time) error {
	err := http.NewResponseController(w).SetReadDeadline(when)
	if errors.Is(err, http.ErrNotSupported) {
		return nil // it is there already
	}
	return err
}

// receive reads a request's body.
func receive(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	tooLarge := (*http.MaxBytesError)(nil)
	switch {
	case errors.As(err, &tooLarge):
		return nil, &statusError{http.StatusRequestEntityTooLarge, fmt.Errorf("request is larger than %d bytes", maxBody)}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &statusError{http.StatusRequestTimeout, fmt.Errorf("request is not complete after %s; nothing was done, try again", bodyPatience)}
	case err != nil:
		return nil, &statusError{http.StatusBadRequest, fmt.Errorf("read request: %w", err)}
	}
	return body, expectBy(w, time.Time{}) // while we work on it, the engine is silent
}

// method is the name of the call, e.g. NetworkDriver.Join.
func method(r *http.Request) string { return excerpt(strings.TrimPrefix(r.URL.Path, "/"), 64) }

func write(w http.ResponseWriter, status int, answer any) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // people read it
	if err := enc.Encode(answer); err != nil {
		panic(fmt.Sprintf("driver: encode %T: %v", answer, err))
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // an engine that has gone asks again
}

// errorText is one line of bounded length.
func errorText(err error) string {
	return excerpt(strings.ReplaceAll(err.Error(), "\n", "; "), maxErrorText)
}

// excerpt is the text, or its beginning where it is too long. What does nothing but move
// a cursor, change colours or the direction of writing is shown as an escape: the text may
// be another's, and ends on a person's terminal and in logs.
func excerpt(text string, most int) string {
	cut := len(text) > most
	if cut {
		text = strings.ToValidUTF8(text[:most], "")
	}
	var b strings.Builder
	for _, r := range text { // a byte that is no character counts as U+FFFD
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	if cut {
		b.WriteRune('…')
	}
	return b.String()
}

func (s *Server) logRequest(r *http.Request, about subject, err error, took time.Duration) {
	line := s.log.WithFields(logrus.Fields{"method": method(r), "took": took.Round(time.Microsecond)})
	if about.network != "" {
		line = line.WithField("network", about.network)
	}
	if about.endpoint != "" {
		line = line.WithField("endpoint", about.endpoint)
	}
	if err != nil {
		line.WithField(logrus.ErrorKey, errorText(err)).Warn("refused")
		return
	}
	line.Info("answered")
}
