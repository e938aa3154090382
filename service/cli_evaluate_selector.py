"""`diffplugin evaluate selector`: labelled sentences of a file, and the paper's protocol."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli_settings import read_store_settings

COLUMNS = ("zta", "CP", "OP", "OR", "CF1", "OF1", "map")


def evaluate_selector_command(
    instructions: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="One JSON object with id and text a line; default: sentences of our own.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write id, labels and scores, one a line.")
    ] = None,
    protocol: Annotated[
        bool,
        typer.Option(help="The paper's: single, multi, single + non-existing, at random."),
    ] = False,
    sentences: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="YAML of sentences by task, and none, for --protocol."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Photos that --protocol's sentences join."),
    ] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Combinations in each setting.")] = 400,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the numbers.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with tables.")] = None,
    base: Annotated[str | None, typer.Option(help="Base model in plugins_store.")] = None,
) -> None:
    """Plan sentences; measure the plans where the file has the right labels."""
    from service.evaluation.selector import OWN_INSTRUCTIONS, predict_instructions

    settings = read_store_settings(base=base)
    store = settings.plugins_store
    report: dict[str, Any] = predict_instructions(
        instructions or OWN_INSTRUCTIONS, predictions, store, settings.base
    )
    if protocol:
        report["protocol"] = _protocol(store, settings.base, sentences, images, num_samples)
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=2) + "\n")
    if html is not None:
        from service.evaluation.selector_page import write_selector_page

        write_selector_page(html, report)
    print(
        json.dumps({name: value for name, value in report.items() if name != "protocol"}, indent=2)
    )
    for line in _table(report.get("protocol", {})):
        print(line)


def _protocol(
    store: Path, base: str, sentences: Path | None, images: Path | None, num_samples: int
) -> dict[str, dict[str, Any]]:
    from service.evaluation.selector_protocol import read_sentences, run_protocol
    from service.selector.planner import load_own_planner
    from service.training.photos import find_photos, read_photos

    photos = read_photos(find_photos(images)) if images else []
    planner = load_own_planner(store, base)
    return run_protocol(planner, read_sentences(sentences), num_samples, photos)


def _table(protocol: dict[str, dict[str, Any]]) -> list[str]:
    """Rows as in the paper's table 5."""
    if not protocol:
        return []
    head = f"{'setting':<22}" + "".join(f"{name.upper():>8}" for name in COLUMNS)
    rows = [
        f"{name:<22}" + "".join(f"{measured[column]:>8.3f}" for column in COLUMNS)
        for name, measured in protocol.items()
    ]
    return [head, *rows]
