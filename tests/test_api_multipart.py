"""Forms: parts are read as they were sent, and malformed bodies are refused."""

import pytest

from service.api.multipart import MAX_FIELDS, parse_form
from service.errors import InvalidRequest

TYPE = "multipart/form-data; boundary=line"
PICTURE = bytes(range(256)) * 400 + b"\r\n--lin\r\n-" + b"\r\n--lineup"


def body(*parts: tuple[str, bytes], end: bytes = b"--line--\r\n") -> bytes:
    return b"".join(
        b"--line\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    ) + end  # fmt: skip


def test_files_and_fields_come_back_byte_for_byte() -> None:
    parts = parse_form(
        body(('name="image"; filename="a.png"', PICTURE), ('name="instruction"', "ä b".encode())),
        TYPE,
    )
    assert [(p.name, p.is_file) for p in parts] == [("image", True), ("instruction", False)]
    assert parts[0].content == PICTURE
    assert parts[1].text == "ä b"


def test_empty_fields_and_repeated_ones_keep_their_order() -> None:
    parts = parse_form(body(('name="a"', b""), ('name="b"', b"1"), ('name="b"', b"2")), TYPE)
    assert [(p.name, p.content) for p in parts] == [("a", b""), ("b", b"1"), ("b", b"2")]


@pytest.mark.parametrize(
    ("data", "content_type", "says"),
    [
        (body(('name="a"', b"1")), "multipart/form-data", "boundary"),
        (body(('name="a"', b"1"), end=b""), TYPE, "last boundary"),
        (b"", TYPE, "last boundary"),
        (b"something else", TYPE, "cannot be read"),
        (body(("filename=x", b"1")), TYPE, "no name"),
        (body(*[(f'name="f{n}"', b"1") for n in range(MAX_FIELDS + 1)]), TYPE, "too many"),
        (body(*[('name="image"; filename="a"', b"1")] * 4), TYPE, "too many"),
        (body(('name="a"', bytes(2**20 + 1))), TYPE, "more than"),
    ],
    ids=["no boundary", "cut", "empty", "text", "nameless", "fields", "files", "long"],
)
def test_what_is_no_form_is_refused(data: bytes, content_type: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        parse_form(data, content_type)


def test_a_field_that_is_no_text_is_named() -> None:
    (part,) = parse_form(body(('name="instruction"', b"\xff\xfe")), TYPE)
    with pytest.raises(InvalidRequest, match="instruction"):
        _ = part.text
