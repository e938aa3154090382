"""A multipart/form-data body -> its parts. The body is in memory already, so nothing is spooled."""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequest

MAX_FILES = 3  # a third one is read to be refused by its name
MAX_FIELDS = 64
MAX_FIELD_BYTES = 2**20


@dataclass(frozen=True)
class Part:
    """One field of a form; `is_file` if it came with a file name."""

    name: str
    is_file: bool
    content: bytes

    @property
    def text(self) -> str:
        """InvalidRequest if it is not UTF-8."""
        try:
            return self.content.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"field {self.name!r} is not UTF-8 text") from error


def parse_form(body: bytes, content_type: str) -> list[Part]:
    """The parts in their order; InvalidRequest if the body is malformed or has too many."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise InvalidRequest("the form cannot be read: its Content-Type names no boundary")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the form cannot be read: {error}") from error
    if not collector.has_ended:
        raise InvalidRequest("the form cannot be read: its last boundary is missing")
    return collector.parts


@dataclass
class _Collector:
    """What the parser calls back with."""

    parts: list[Part] = field(default_factory=list)
    has_ended: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _name: bytes = b""
    _value: bytes = b""
    _content: list[bytes] = field(default_factory=list)

    @property
    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers, self._content = {}, []

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise InvalidRequest("the form cannot be read: a part of it has no name")
        name = options[b"name"].decode(errors="replace")
        part = Part(name, b"filename" in options, b"".join(self._content))
        self.parts.append(part)
        num_files = sum(p.is_file for p in self.parts)
        if num_files > MAX_FILES or len(self.parts) - num_files > MAX_FIELDS:
            raise InvalidRequest(
                f"the form has too many parts: at most {MAX_FILES} files and {MAX_FIELDS} fields"
            )
        if not part.is_file and len(part.content) > MAX_FIELD_BYTES:
            raise InvalidRequest(f"field {name!r} has more than {MAX_FIELD_BYTES} bytes")

    def _finish(self) -> None:
        self.has_ended = True
