// Package backup writes everything that makes a broker into one encrypted file and fills another broker from it, on any
// machine and either database.
//
// The file is an age file (age-encryption.org/v1), so that stock tools open it too. Inside is gzip, and inside that JSON
// Lines: one header, the files of the data folder, the root key when it was asked for, each table with its rows, and an end
// that counts them and holds the SHA-256 of all lines before it.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"keyward/broker/internal/store"
)

// The format of the lines.
const (
	Format  = "keyward-backup"
	Version = 1
	// maxLine bounds one line, in bytes: the largest row.
	maxLine = 64 << 20
)

// Header says what the backup is of.
type Header struct {
	Format    string    `json:"format"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	// Program is the broker's version, Database the kind it came from.
	Program  string `json:"program"`
	Database string `json:"database"`
	// RootKeyID and RootProvider name the root key that opens what is in the backup.
	RootKeyID    string `json:"root_key_id"`
	RootProvider string `json:"root_provider"`
	RootIncluded bool   `json:"root_included"`
}

// File is one file of the data folder.
type File struct {
	Name string `json:"name"`
	Mode uint32 `json:"mode"`
	Data []byte `json:"data"`
}

// End is the last line.
type End struct {
	// Schema is the version of the schema that the rows have.
	Schema int64            `json:"schema"`
	Files  int              `json:"files"`
	Rows   map[string]int64 `json:"rows"`
	SHA256 string           `json:"sha256"`
}

// line is one line; one member is set.
type line struct {
	Header *Header          `json:"header,omitempty"`
	File   *File            `json:"file,omitempty"`
	Root   []byte           `json:"root,omitempty"`
	Table  *store.DumpTable `json:"table,omitempty"`
	Row    []any            `json:"row,omitempty"`
	End    *End             `json:"end,omitempty"`
}

// writer writes lines and counts them for the end.
type writer struct {
	out   *bufio.Writer
	sum   hash.Hash
	files int
	rows  map[string]int64
	table string
}

func newWriter(w io.Writer) *writer {
	return &writer{out: bufio.NewWriterSize(w, 64<<10), sum: sha256.New(), rows: map[string]int64{}}
}

func (w *writer) write(l line) error {
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	data = append(data, '\n')
	w.sum.Write(data)
	_, err = w.out.Write(data)
	clear(data)
	return err
}

func (w *writer) file(f File) error { w.files++; return w.write(line{File: &f}) }

func (w *writer) tableBegins(t store.DumpTable) error {
	w.table = t.Name
	w.rows[t.Name] = 0
	return w.write(line{Table: &t})
}

func (w *writer) row(values []any) error {
	w.rows[w.table]++
	out := make([]any, len(values))
	for i, v := range values {
		switch x := v.(type) {
		case []byte:
			out[i] = base64.StdEncoding.EncodeToString(x)
		case time.Time:
			out[i] = x.UTC().Format(time.RFC3339Nano)
		default:
			out[i] = v
		}
	}
	return w.write(line{Row: out})
}

func (w *writer) end(schema int64) error {
	e := End{Schema: schema, Files: w.files, Rows: w.rows, SHA256: hex.EncodeToString(w.sum.Sum(nil))}
	if err := w.write(line{End: &e}); err != nil {
		return err
	}
	return w.out.Flush()
}

// Visitor takes what a backup holds, in its order. Members that are nil are passed over.
type Visitor struct {
	Header func(Header) error
	File   func(File) error
	Root   func([]byte) error
	Table  func(store.DumpTable) error
	Row    func(store.DumpTable, []any) error
	// Progress is told now and then how many rows were read.
	Progress func(rows int64)
}

// read passes the lines of a backup to a visitor and checks that they are all there.
func read(r io.Reader, v Visitor) (Header, End, error) {
	rd := reader{in: bufio.NewReaderSize(r, 64<<10), sum: sha256.New(), visit: v, rows: map[string]int64{}}
	err := rd.run()
	if err != nil {
		err = fmt.Errorf("line %d: %w", rd.line, err)
	}
	return rd.header, rd.ended, err
}

type reader struct {
	in     *bufio.Reader
	sum    hash.Hash
	visit  Visitor
	line   int64
	header Header
	ended  End
	table  *store.DumpTable
	files  int
	rows   map[string]int64
	total  int64
}

func (r *reader) run() error {
	for {
		r.line++
		data, err := readLine(r.in)
		if err == io.EOF {
			return errors.New("the backup has no end: it was cut off")
		}
		if err != nil {
			return err
		}
		before := r.sum.Sum(nil)
		r.sum.Write(data)
		var l line
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		d.UseNumber()
		if err := d.Decode(&l); err != nil {
			return fmt.Errorf("it is not understood: %w", err)
		}
		if l.End != nil {
			return r.finish(*l.End, before)
		}
		if err := r.take(l); err != nil {
			return err
		}
	}
}

func (r *reader) take(l line) error {
	switch {
	case (l.Header != nil) != (r.line == 1):
		return errors.New("a backup begins with its one header")
	case l.Header != nil:
		if l.Header.Format != Format || l.Header.Version != Version {
			return fmt.Errorf("format %.40q version %d is not %s version %d: use the keyward-broker that wrote it", l.Header.Format, l.Header.Version, Format, Version)
		}
		r.header = *l.Header
		return call(r.visit.Header, r.header)
	case l.File != nil:
		r.files++
		return call(r.visit.File, *l.File)
	case l.Root != nil:
		return call(r.visit.Root, l.Root)
	case l.Table != nil:
		if _, again := r.rows[l.Table.Name]; again {
			return fmt.Errorf("table %s comes twice", l.Table.Name)
		}
		r.table, r.rows[l.Table.Name] = l.Table, 0
		return call(r.visit.Table, *l.Table)
	case l.Row != nil:
		return r.row(l.Row)
	}
	return errors.New("the line says nothing")
}

func call[T any](f func(T) error, v T) error {
	if f == nil {
		return nil
	}
	return f(v)
}

func (r *reader) row(values []any) error {
	if r.table == nil || len(values) != len(r.table.Columns) {
		return errors.New("a row does not fit its table")
	}
	for i, v := range values {
		var err error
		if values[i], err = value(r.table.Columns[i].Kind, v); err != nil {
			return fmt.Errorf("column %s of table %s: %w", r.table.Columns[i].Name, r.table.Name, err)
		}
	}
	r.rows[r.table.Name]++
	if r.total++; r.visit.Progress != nil && r.total%1000 == 0 {
		r.visit.Progress(r.total)
	}
	if r.visit.Row == nil {
		return nil
	}
	return r.visit.Row(*r.table, values)
}

// value turns what JSON holds into what a database takes.
func value(kind string, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	text, isText := v.(string)
	number, isNumber := v.(json.Number)
	truth, isBool := v.(bool)
	switch {
	case kind == "text" && isText:
		return text, nil
	case kind == "bytes" && isText:
		b, err := base64.StdEncoding.DecodeString(text)
		if b == nil {
			b = []byte{}
		}
		return b, err
	case kind == "time" && isText:
		return time.Parse(time.RFC3339Nano, text)
	case kind == "integer" && isNumber:
		return number.Int64()
	case kind == "bool" && isBool:
		return truth, nil
	}
	return nil, fmt.Errorf("%T is no %s", v, kind)
}

func (r *reader) finish(e End, before []byte) error {
	if e.SHA256 != hex.EncodeToString(before) {
		return errors.New("its lines are not those that were written")
	}
	if e.Files != r.files || len(e.Rows) != len(r.rows) {
		return fmt.Errorf("it holds %d files and %d tables, and its end says %d and %d", r.files, len(r.rows), e.Files, len(e.Rows))
	}
	for name, n := range e.Rows {
		if r.rows[name] != n {
			return fmt.Errorf("it holds %d rows of table %s, and its end says %d", r.rows[name], name, n)
		}
	}
	if _, err := r.in.ReadByte(); err != io.EOF {
		return errors.Join(errors.New("something follows its end"), err)
	}
	r.ended = e
	return nil
}

// readLine reads up to a newline, and bounds it.
func readLine(r *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(out)+len(part) > maxLine {
			return nil, fmt.Errorf("it is longer than %d bytes", maxLine)
		}
		out = append(out, part...)
		switch {
		case err == nil:
			return out, nil
		case err == io.EOF && len(out) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}
