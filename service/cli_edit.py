"""`diffplugin edit`: a picture or a folder of them, edited here or by a running service."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, cast, get_args

import typer

from service import errors
from service.cli_folder import edit_folder
from service.cli_settings import check_installed, read_settings, read_store_settings
from service.images import (
    LOSSY,
    MEDIA_TYPES,
    ImageLimits,
    Output,
    OutputFormat,
    media_type,
    read_mask,
    read_photo,
    write_photo,
)
from service.jobs import EditRequest, Plan
from service.settings import Settings

EditOne = Callable[[bytes, bytes, EditRequest], tuple[bytes, Plan]]

Server = Annotated[str | None, typer.Option(help="Ask the service at this URL.")]
Base = Annotated[str | None, typer.Option(help="Base model in plugins_store.")]


def edit(
    picture: Annotated[Path, typer.Argument(exists=True, help="An image file, or a folder.")],
    instruction: Annotated[str, typer.Argument(help='E.g. "remove the rain".')] = "",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Default: NAME_edit.png, or a folder."),
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Run this plugin; repeat it for a sequence.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps per task.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 0,
    mask: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Edit only where this picture is white."),
    ] = None,
    quality: Annotated[
        int | None, typer.Option(min=1, max=100, help="Of .jpg, .webp and .avif.")
    ] = None,
    strength: Annotated[
        float, typer.Option(min=0, max=1, help="How much of the change is kept.")
    ] = 1.0,
    output_format: Annotated[
        str, typer.Option("--format", help="Of a folder's results: png, jpg, webp, avif or tif.")
    ] = "png",
    metadata: Annotated[
        Literal["keep", "strip"], typer.Option(help="EXIF, XMP and IPTC of the picture.")
    ] = "keep",
    base: Base = None,
    server: Server = None,
) -> None:
    """Edit a picture, or every picture of a folder, here or by a running service."""
    is_folder = picture.is_dir()
    default = f"{picture.name}_edit" if is_folder else f"{picture.stem}_edit.png"
    out = out or picture.with_name(default)
    sample = out / f"x.{output_format}" if is_folder else out
    request = EditRequest(
        instruction=instruction,
        plugins=tuple(plugin) if plugin else None,
        steps=steps,
        seed=seed,
        output_format=_output_format(sample),
        output_quality=quality,
        metadata=metadata,
        strength=strength,
    )
    if quality is not None and request.output_format not in LOSSY:
        raise errors.InvalidRequest(f"{out}: --quality is of .jpg, .webp and .avif")
    if not plugin and not instruction.strip():
        raise errors.InvalidRequest("say what to do, e.g. 'remove the rain', or name a --plugin")
    if not out.parent.is_dir():
        raise errors.InvalidRequest(f"{out}: the folder {out.parent} is not there")
    mask_file = mask.read_bytes() if mask else b""
    with _remote(server) if server else _local(base, request) as edit_one:
        if is_folder:
            _edit_folder(
                picture, out, sample.suffix, lambda data: edit_one(data, mask_file, request)
            )
            return
        result, plan = edit_one(picture.read_bytes(), mask_file, request)
    print(sentence(plan))
    out.write_bytes(result)
    print(f"wrote {out}")


def _edit_folder(
    folder: Path, out: Path, suffix: str, edit_one: Callable[[bytes], tuple[bytes, Plan]]
) -> None:
    """Code 1 if a picture failed; the others are there all the same."""
    summary = edit_folder(folder, out, suffix, lambda data: edit_one(data)[0])
    print(f"{summary}\nwrote to {out}")
    if summary.failures:
        raise typer.Exit(1)


@contextmanager
def _local(base: str | None, request: EditRequest) -> Iterator[EditOne]:
    """Edits in this process."""
    from service.local_edit import LocalEditor

    settings = read_store_settings(base=base)
    check_installed(settings, request.plugins or ())
    editor = LocalEditor(settings)

    def edit_one(data: bytes, mask: bytes, request: EditRequest) -> tuple[bytes, Plan]:
        photo = read_photo(data, limits_of(settings))
        weights = read_mask(mask, limits_of(settings), photo.shape)
        plan = editor.plan(photo.pixels, request)
        if plan.runnable:
            restored = editor.edit(photo.pixels, plan, request.steps, request.seed)
        elif media_type(data) == MEDIA_TYPES[request.output_format]:
            return data, plan
        else:
            restored = photo.unchanged
        return write_photo(photo, restored, Output.of(request), plan.runnable, weights), plan

    yield edit_one


@contextmanager
def _remote(server: str) -> Iterator[EditOne]:
    """Edits by the service at that URL."""
    from service.client import Client

    settings = read_settings()
    with Client(server, settings.request_timeout_s, api_key=settings.api_key) as client:

        def edit_one(data: bytes, mask: bytes, request: EditRequest) -> tuple[bytes, Plan]:
            fields = {"steps", "seed", "output_format", "output_quality", "metadata", "strength"}
            options = request.model_dump(include=fields, exclude_none=True)
            answer = client.edit(
                data, request.instruction, request.plugins, mask or None, **options
            )
            return answer.image, answer.plan

        yield edit_one


def sentence(plan: Plan) -> str:
    """The plan in one line."""
    steps = [
        f"{task.plugin}{'' if task.score is None else f' ({task.score:.2f})'}"
        for task in plan.tasks
        if task.installed
    ]
    missing = [task.plugin for task in plan.tasks if not task.installed]
    line = f"plan: {' -> '.join(steps)}" if steps else "plan: nothing to run, the picture stays"
    return f"{line}; not installed: {', '.join(missing)}" if missing else line


def _output_format(path: Path) -> OutputFormat:
    """By the file's suffix; checked before the work."""
    name = path.suffix.lower().removeprefix(".")
    name = {"jpg": "jpeg", "tif": "tiff"}.get(name, name)
    if name not in get_args(OutputFormat):
        raise errors.InvalidRequest(
            f"{path}: end the output's name in .png, .jpg, .webp, .avif or .tif"
        )
    return cast(OutputFormat, name)


def limits_of(settings: Settings) -> ImageLimits:
    return ImageLimits(settings.max_image_bytes, settings.max_image_pixels, settings.min_image_side)
