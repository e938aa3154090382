from pathlib import Path

from service.evaluation.selector_page import MEASURES, write_selector_page


def test_the_page_shows_kinds_and_the_protocol_beside_the_paper(tmp_path: Path) -> None:
    values = dict.fromkeys(MEASURES, 0.625)
    report = {
        "items": 7,
        "threshold": 0.43,
        "exact_set": 0.857,
        "exact_set_by_kind": {"single": 1.0, "typo & co": 0.5},
        "order": 0.9,
        "protocol": {"single": values, "our own setting": values},
    }
    path = tmp_path / "selector.html"
    write_selector_page(path, report)
    text = path.read_text()
    assert "7 sentences, threshold 0.43" in text
    assert "<td>typo &amp; co</td><td>0.500</td>" in text
    assert "<td>our own setting</td><td>0.625</td>" in text
    assert "<td>single, paper</td><td>0.998</td>" in text
    assert "our own setting, paper" not in text
    assert text.count("<svg") == 1


def test_a_run_without_labels_has_a_page_too(tmp_path: Path) -> None:
    path = tmp_path / "selector.html"
    write_selector_page(path, {"items": 2, "threshold": 0.4})
    assert "2 sentences" in path.read_text()
    assert "<table>" not in path.read_text()
