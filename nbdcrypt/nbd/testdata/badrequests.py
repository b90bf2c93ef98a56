"""Sends requests that libnbd would refuse to send, and prints the server's answers.

Usage: badrequests.py URI

One line for each request: its name and the error it got. The same script against nbdkit says what is expected.
"""
import sys

import nbd

MIB = 1 << 20


def ask(handle, name, request):
    try:
        request(handle)
        print(name, "OK")
    except nbd.Error as error:
        print(name, error.errno or "none")
        if not handle.aio_is_ready():
            print(name, "closed the connection")
            sys.exit(1)


def main(uri):
    handle = nbd.NBD()
    handle.set_strict_mode(0)
    handle.add_meta_context("base:allocation")
    handle.connect_uri(uri)
    size = handle.get_size()
    fua, no_hole, df, req_one, fast = (nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_DF,
                                       nbd.CMD_FLAG_REQ_ONE, nbd.CMD_FLAG_FAST_ZERO)
    unknown = 1 << 10
    extents = lambda context, offset, entries, error: 0
    for name, request in [
        ("read zero length", lambda h: h.pread(0, 0)),
        ("read past the end", lambda h: h.pread(512, size)),
        ("read across the end", lambda h: h.pread(1024, size - 512)),
        ("read at a negative offset", lambda h: h.pread(512, 1 << 63)),
        ("read where offset and length overflow", lambda h: h.pread(512, (1 << 64) - 100)),
        ("read with an unknown flag", lambda h: h.pread(512, 0, unknown)),
        ("read with FUA", lambda h: h.pread(512, 0, fua)),
        ("read with DF", lambda h: h.pread_structured(512, 0, lambda *a: 0, df)),
        ("read with NO_HOLE", lambda h: h.pread(512, 0, no_hole)),
        ("read with REQ_ONE", lambda h: h.pread(512, 0, req_one)),
        ("write zero length", lambda h: h.pwrite(b"", 0)),
        ("write past the end", lambda h: h.pwrite(bytes(512), size)),
        ("write across the end", lambda h: h.pwrite(bytes(1024), size - 512)),
        ("write with an unknown flag", lambda h: h.pwrite(bytes(512), 0, unknown)),
        ("write with DF", lambda h: h.pwrite(bytes(512), 0, df)),
        ("write with FAST_ZERO", lambda h: h.pwrite(bytes(512), 0, fast)),
        ("write with FUA", lambda h: h.pwrite(bytes(512), 0, fua)),
        ("flush with an unknown flag", lambda h: h.flush(unknown)),
        ("flush with FUA", lambda h: h.flush(fua)),
        ("trim zero length", lambda h: h.trim(0, 0)),
        ("trim past the end", lambda h: h.trim(512, size)),
        ("trim with NO_HOLE", lambda h: h.trim(512, 0, no_hole)),
        ("trim with FUA", lambda h: h.trim(512, 0, fua)),
        ("cache past the end", lambda h: h.cache(512, size)),
        ("zero past the end", lambda h: h.zero(512, size)),
        ("zero across the end", lambda h: h.zero(1024, size - 512)),
        ("zero with DF", lambda h: h.zero(512, 0, df)),
        ("zero with FAST_ZERO", lambda h: h.zero(512, 0, fast)),
        ("zero with NO_HOLE", lambda h: h.zero(512, 0, no_hole)),
        ("block status zero length", lambda h: h.block_status(0, 0, extents)),
        ("block status past the end", lambda h: h.block_status(512, size, extents)),
        ("block status with DF", lambda h: h.block_status(512, 0, extents, df)),
        ("block status with REQ_ONE", lambda h: h.block_status(512, 0, extents, req_one)),
        ("write after all that", lambda h: h.pwrite(b"still in step" * 512, 4096)),
    ]:
        ask(handle, name, request)
    if handle.pread(13, 4096) != b"still in step":
        print("wrong data")
    # libnbd itself stops at 64 MiB; the servers stop at their own maximum.
    if size > 40 * MIB:
        ask(handle, "read over the maximum", lambda h: h.pread(33 * MIB, 0))
        ask(handle, "write over the maximum", lambda h: h.pwrite(bytes(33 * MIB), 0))
        ask(handle, "write after that", lambda h: h.pwrite(bytes(512), 0))
    handle.shutdown()


main(sys.argv[1])
