package facts

import (
	"context"
	"crypto/fips140"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"time"

	simd "github.com/minio/sha256-simd"

	"keyward/broker/api"
)

// maxFile is the largest file whose digest is a fact, bytes.
const maxFile = 4 << 30

// Digester makes SHA-256 hashes of file contents. It is for nothing else: keys, headers and signatures use crypto/sha256.
type Digester func() hash.Hash

// NewDigester returns the faster implementation where the processor has no SHA instructions, and crypto/sha256 in FIPS
// mode, because only that is inside the validated module.
func NewDigester() Digester { return digesterFor(fips140.Enabled()) }

func digesterFor(fips bool) Digester {
	if fips {
		return sha256.New
	}
	return simd.New
}

// identity tells whether a file is still the one that was hashed.
type identity struct {
	size    int64
	changed time.Time
	inode   uint64
}

type digested struct {
	of  identity
	sum string
}

func fileFacts(ctx context.Context, s Sources, path string) []api.Fact {
	sum, err := s.digest(ctx, path)
	var values []string
	if err == nil {
		values = []string{sum}
	}
	return []api.Fact{s.fact(ctx, api.FactFileSHA256, path, "file", values, err)}
}

// digest hashes a file, or remembers that it did and that inode, size and change time are still the same. Evidence that
// must be fresh is always hashed.
func (s Sources) digest(ctx context.Context, path string) (string, error) {
	f, err := openFile(s.path(path))
	if err != nil {
		return "", err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return "", err
	}
	switch {
	case !before.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	case before.Size() > maxFile:
		return "", fmt.Errorf("%s is larger than %d bytes", path, int64(maxFile))
	}
	if known, ok := s.knownDigest(path); ok && known.of == identityOf(before) {
		return known.sum, nil
	}
	h := NewDigester()()
	n, err := io.Copy(h, io.LimitReader(&interruptible{ctx, f}, maxFile+1))
	if err != nil {
		return "", err
	}
	after, err := f.Stat()
	if err != nil {
		return "", err
	}
	if n != before.Size() || identityOf(before) != identityOf(after) {
		return "", errors.New("the file changed while it was read")
	}
	sum := hex.EncodeToString(h.Sum(nil))
	if s.Memory != nil {
		s.Memory.mu.Lock()
		s.Memory.digests[path] = digested{identityOf(after), sum}
		s.Memory.mu.Unlock()
	}
	return sum, nil
}

func (s Sources) knownDigest(path string) (digested, bool) {
	if s.Memory == nil || s.Fresh {
		return digested{}, false
	}
	s.Memory.mu.Lock()
	defer s.Memory.mu.Unlock()
	d, ok := s.Memory.digests[path]
	return d, ok
}

func identityOf(info fs.FileInfo) identity {
	changed, inode := changeOf(info)
	return identity{info.Size(), changed, inode}
}

// interruptible ends a long read with its context.
type interruptible struct {
	ctx context.Context
	f   *os.File
}

// Read implements io.Reader.
func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.f.Read(p)
}
