"""`diffplugin evaluate`: measurements from the command line, as JSON, pictures and HTML reports."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli_evaluate_selector import evaluate_selector_command
from service.cli_settings import check_installed, read_store_settings
from service.errors import InvalidRequest
from service.plugin_manifest import installed_plugins
from service.settings import Settings

evaluate_app = typer.Typer(
    help="Measure restoration, the selector or variants of both.", no_args_is_help=True
)

Photos = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Clean photos to damage.")
]
Tasks = Annotated[
    str | None, typer.Option(help="Plugins, e.g. derain,dehaze; default: all that are installed.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers.")]
Html = Annotated[Path | None, typer.Option(help="Write a report with tables, plots, pictures.")]
Show = Annotated[
    Path | None,
    typer.Option(exists=True, file_okay=False, help="Draw these photos, not those measured."),
]
BaseName = Annotated[str | None, typer.Option(help="Base model in plugins_store.")]


@evaluate_app.command("restoration")
def evaluate_restoration_command(
    images: Photos = None,
    pairs: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="CSV with the columns input, target."),
    ] = None,
    unpaired: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Real photos; or a folder per plugin."),
    ] = None,
    tasks: Tasks = None,
    sequence: Annotated[bool, typer.Option(help="Two plugins on two damages at once.")] = False,
    clean: Annotated[bool, typer.Option(help="What plugins do to photos without damage.")] = False,
    size: Annotated[int, typer.Option(min=64, help="Photos are cut and scaled to this.")] = 256,
    pattern: Annotated[str, typer.Option(help="Only photos named like this, e.g. 'face_*'.")] = "*",
    limit: Annotated[int | None, typer.Option(min=1, help="Use this many photos.")] = None,
    json_path: Json = None,
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet, PNG or JPEG.")] = None,
    html: Html = None,
    show: Show = None,
    base: BaseName = None,
) -> None:
    """Restore photos and compare with the truth and with classical methods."""
    from service.engine.engine import build_engine
    from service.evaluation.engine_restore import engine_restorer
    from service.evaluation.restoration import Options, evaluate_restoration
    from service.evaluation.restoration_page import terminal_table, write_restoration_page
    from service.evaluation.sheet import draw_sheet

    if images is None and pairs is None and unpaired is None:
        raise InvalidRequest("give --images, --pairs or --unpaired")
    settings = read_store_settings(base=base)
    names = _tasks(settings, tasks, known_only=images is not None)
    engine = build_engine(
        settings.plugins_store,
        settings.base,
        settings.device,
        settings.max_batch_size,
        settings.num_threads,
    )
    options = Options(
        names, images, pairs, unpaired, sequence, clean, size, pattern, limit, show=show
    )
    evaluation = evaluate_restoration(options, engine_restorer(engine))
    if json_path is not None:
        _write_json(json_path, evaluation.report)
    if sheet is not None:
        draw_sheet([part for parts in evaluation.sections.values() for part in parts], sheet)
    if html is not None:
        write_restoration_page(html, evaluation)
    print(terminal_table(evaluation.report))


evaluate_app.command("selector")(evaluate_selector_command)


@evaluate_app.command("ablations")
def evaluate_ablations_command(
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Photos to train on.")],
    held_out: Annotated[
        Path, typer.Option(exists=True, file_okay=False, help="Photos to measure on.")
    ],
    tasks: Annotated[str, typer.Option(help="Damages to try the variants on.")] = "derain,lowlight",
    run_dir: Annotated[Path, typer.Option(help="Results so far; the run goes on here.")] = Path(
        "runs/ablations"
    ),
    max_minutes: Annotated[
        float | None, typer.Option(help="Begin no other variant after this; run again to go on.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Training steps of a variant.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Crops per step.")] = None,
    size: Annotated[int | None, typer.Option(min=32, help="Side of a crop in pixels.")] = None,
    num_photos: Annotated[int | None, typer.Option(min=1, help="Photos to train on.")] = None,
    num_held_out: Annotated[int | None, typer.Option(min=1, help="Photos to measure on.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, crops and damages.")] = None,
    json_path: Json = None,
    html: Html = None,
    show: Show = None,
    base: BaseName = None,
) -> None:
    """Train and measure the paper's variants and rivals of a plugin, small; then report them."""
    from service.evaluation.ablations.page import write_ablations_page
    from service.evaluation.ablations.report import draw_variants, gather
    from service.evaluation.ablations.run import AblationRecipe, run_ablations

    settings = read_store_settings(base=base)
    chosen: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "size": size,
        "num_photos": num_photos,
        "num_held_out": num_held_out,
        "seed": seed,
    }
    recipe = AblationRecipe(
        images,
        held_out,
        settings.plugins_store,
        settings.base,
        run_dir,
        tuple(part.strip() for part in tasks.split(",") if part.strip()),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    num_left = run_ablations(recipe, max_minutes)
    if num_left:
        print(f"{num_left} variants are left: run the same command again")
        return
    report = gather(recipe)
    if json_path is not None:
        _write_json(json_path, report)
    if html is not None:
        write_ablations_page(html, report, draw_variants(recipe, show or held_out))
    for task, rows in report["tasks"].items():
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["psnr"]):
            print(f"{task:<10} {name:<28} {row['psnr']:.2f} dB  SSIM {row['ssim']:.3f}")


def _tasks(settings: Settings, tasks: str | None, known_only: bool) -> tuple[str, ...]:
    """The plugins that are named; else all, or with known_only those whose damage is known."""
    from service.evaluation.cases import damage_of

    if tasks is None:
        installed = installed_plugins(settings.plugins_store, settings.base)
        return tuple(name for name in installed if damage_of(name) or not known_only)
    names = tuple(part.strip() for part in tasks.split(",") if part.strip())
    check_installed(settings, names)
    return names


def _write_json(path: Path, report: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
