"""Forms: the one file of a `multipart/form-data` body (RFC 7578).

Delimiters are searched as a whole, since a byte-wise parser holds the event loop for seconds; part headers are bounded
before they are parsed, and a long file is searched in steps between turns of the event loop.
"""

import asyncio

from python_multipart.multipart import parse_options_header

from deepergatgnn.service.errors import ServiceError

MOST_TYPE = 512  # bytes of a Content-Type that are parsed
MOST_BOUNDARY = 70  # characters, by RFC 2046
MOST_HEAD = 4096  # bytes of the headers of a part
MOST_LINES = 8  # of them
MOST_PADDING = 128  # blanks behind a delimiter
STEP = 1 << 20  # bytes that are searched in one turn of the event loop
END = b"\r\n"
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "windows-1252"})


async def read_form(content_type: str, body: bytes) -> bytes:
    """Return the content of the only field, `file`.

    Raises:
        ServiceError: 400 malformed.
    """
    if len(content_type) > MOST_TYPE:
        raise _malformed(f"the Content-Type has more than {MOST_TYPE} characters")
    _, options = parse_options_header(content_type)
    boundary, charset = options.get(b"boundary", b""), options.get(b"charset", b"utf-8").decode("latin-1")
    if not 0 < len(boundary) <= MOST_BOUNDARY:
        raise _malformed(f"the boundary of the form has {len(boundary)} characters, not 1 to {MOST_BOUNDARY}")
    if charset.lower() not in CHARSETS:  # Python would search for a codec, and remember each unknown name
        raise _malformed(f"the form has the charset {charset[:40]!r}: post it in utf-8")
    delimiter = END + b"--" + boundary
    body = END + body  # the first delimiter may lack the line end before it
    at = await _find(body, delimiter, 0)
    if at < 0:
        raise _malformed("the form lacks the boundary that its Content-Type names")
    begin, last = _after_delimiter(body, at + len(delimiter))
    if last:
        raise _malformed("the form has no field 'file'")
    name, begin = _part_name(body, begin, charset)
    if name != "file":
        raise _malformed(f"the form has a field {name[:80]!r}: post the file as 'file', all else in the query")
    end = await _find(body, delimiter, begin - len(END))  # a part may be empty
    if end < 0:
        raise _malformed("the form ends within a part")
    _, last = _after_delimiter(body, end + len(delimiter))
    if not last:
        raise _malformed("the form has more than one field: post one file as 'file', all else in the query")
    return body[begin : max(begin, end)]


async def _find(body: bytes, mark: bytes, start: int) -> int:
    """Return what `bytes.find` does, in steps."""
    while True:
        end = start + STEP + len(mark) - 1
        at = body.find(mark, start, end)
        if at >= 0 or end >= len(body):
            return at
        start += STEP
        await asyncio.sleep(0)


def _after_delimiter(body: bytes, at: int) -> tuple[int, bool]:
    """Return where the line of a delimiter ends, and whether it is the last one."""
    if body[at : at + 2] == b"--":
        return at + 2, True
    end = body.find(END, at, at + MOST_PADDING)
    if end < 0 or body[at:end].strip(b" \t"):
        raise _malformed("a boundary of the form is not followed by a line end")
    return end + len(END), False


def _part_name(body: bytes, at: int, charset: str) -> tuple[str, int]:
    """Return the name of the field that begins there, and where its content does."""
    end = body.find(END + END, at, at + MOST_HEAD)
    lines = body[at:end].split(END)
    if end < 0 or len(lines) > MOST_LINES:
        raise _malformed(f"a part of the form has more than {MOST_HEAD} bytes or {MOST_LINES} lines of headers")
    for line in lines:
        header, _, value = line.partition(b":")
        if header.strip().lower() == b"content-disposition":
            _, options = parse_options_header(value.strip())
            try:
                return options[b"name"].decode(charset), end + len(END + END)
            except (KeyError, UnicodeDecodeError):
                break
    raise _malformed("a part of the form has no Content-Disposition with a name")


def _malformed(detail: str) -> ServiceError:
    return ServiceError("malformed", detail)
