"""A folder of pictures: one at a time, on after a failure, and never twice."""

from pathlib import Path

import pytest

from service.cli_folder import edit_folder
from service.errors import InvalidImage, InvalidRequest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "b.PNG", "broken.png", "notes.txt", ".hidden.png"):
        (folder / name).write_bytes(name.encode())
    return folder


def reverse(data: bytes) -> bytes:
    if data == b"broken.png":
        raise InvalidImage("the picture is damaged")
    return data[::-1]


def test_every_picture_is_edited_and_a_failure_is_noted(folder: Path, tmp_path: Path) -> None:
    summary = edit_folder(folder, tmp_path / "out", ".webp", reverse)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files == {
        "a.png.webp": b"gnp.a",
        "a.jpg.webp": b"gpj.a",
        "b.PNG.webp": b"GNP.b",
    }
    assert (summary.num_edited, summary.num_skipped) == (3, 0)
    assert summary.failures == {"broken.png": "the picture is damaged"}
    assert "3 edited, 0 there already, 1 failed" in str(summary)
    assert "broken.png: the picture is damaged" in str(summary)


def test_a_second_run_does_only_what_is_missing(folder: Path, tmp_path: Path) -> None:
    out, edited = tmp_path / "out", []

    def stop_at_b(data: bytes) -> bytes:
        if data == b"b.PNG":
            raise KeyboardInterrupt
        return data

    def note(data: bytes) -> bytes:
        edited.append(data)
        return data

    with pytest.raises(KeyboardInterrupt):
        edit_folder(folder, out, ".png", stop_at_b)
    summary = edit_folder(folder, out, ".png", note)
    assert edited == [b"b.PNG", b"broken.png"]
    assert (summary.num_edited, summary.num_skipped) == (2, 2)


def test_originals_are_not_written_over_and_nothing_is_said_aloud(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="another folder"):
        edit_folder(tmp_path, tmp_path / ".", ".png", reverse)
    with pytest.raises(InvalidRequest, match="has no picture"):
        edit_folder(tmp_path, tmp_path / "out", ".png", reverse)
    assert not (tmp_path / "out").exists()
