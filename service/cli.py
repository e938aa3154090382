"""The command `diffplugin`: run the roles, edit and plan, look after plugins, train, measure.

Commands import what they need when they run: `diffplugin api` and --help never load torch.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from service import errors
from service.cli_capacity import plan_capacity
from service.cli_edit import edit, limits_of, sentence
from service.cli_evaluation import evaluate_app
from service.cli_jobs import jobs_app, workers
from service.cli_keys import keys_app
from service.cli_models import models_app
from service.cli_plugins import plugins_app
from service.cli_settings import read_settings, read_store_settings
from service.cli_training import train_app
from service.images import (
    decode,
)
from service.jobs import EditRequest, Plan
from service.logs import setup_logging
from service.settings import Settings

USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # typer exports its children only

app = typer.Typer(
    help="Restore photos from a photo and a sentence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(plugins_app, name="plugins")
app.add_typer(keys_app, name="keys")
app.add_typer(models_app, name="models")
app.add_typer(jobs_app, name="jobs")
app.command("workers")(workers)
app.command("edit")(edit)
app.command("plan-capacity")(plan_capacity)
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")

Picture = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An image file.")]
Instruction = Annotated[str, typer.Argument(help='What to do, e.g. "remove the rain".')]
Server = Annotated[str | None, typer.Option(help="Ask the service at this URL.")]
Base = Annotated[str | None, typer.Option(help="Base model in plugins_store.")]


@app.command("serve")
def serve_command() -> None:
    """Run every role on this machine until Ctrl-C or SIGTERM."""
    from service.serve import serve

    raise typer.Exit(serve(read_store_settings()))


@app.command()
def api() -> None:
    """Run the HTTP API alone."""
    settings = _role_settings()
    from service.api.app import run_api

    uvloop.run(run_api(settings))


@app.command()
def selector() -> None:
    """Run a selector alone: it turns sentences into task sequences."""
    settings = _role_settings()
    from service.selector.process import run_selector

    uvloop.run(run_selector(settings))


@app.command()
def worker() -> None:
    """Run a worker alone: it edits."""
    settings = _role_settings()
    from service.worker_process import run_worker

    uvloop.run(run_worker(settings))


@app.command()
def plan(
    picture: Picture,
    instruction: Instruction,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    base: Base = None,
    server: Server = None,
) -> None:
    """Show which plugins an edit would run, with the scores of all."""
    if server:
        from service.client import Client

        with Client(server, api_key=read_settings().api_key) as client:
            found = client.plan(picture, instruction)
    else:
        from service.local_edit import LocalEditor

        settings = read_store_settings(base=base)
        pixels = decode(picture.read_bytes(), limits_of(settings))
        found = LocalEditor(settings).plan(pixels, EditRequest(instruction=instruction))
    print(json.dumps(found.model_dump(mode="json")) if as_json else format_scores(found))


def format_scores(plan: Plan) -> str:
    """A table of every score, best first, and what is run."""
    order = {task.plugin: number for number, task in enumerate(plan.tasks, start=1)}
    missing = {task.plugin for task in plan.tasks if not task.installed}
    lines = [f"{'plugin':<12} {'score':>6}  runs"]
    for name, score in sorted(plan.scores.items(), key=lambda item: -item[1]):
        place = "not installed" if name in missing else str(order.get(name, ""))
        lines.append(f"{name:<12} {score:>6.3f}  {place}".rstrip())
    if plan.threshold is not None:
        lines.append(f"threshold    {plan.threshold:>6.3f}")
    return "\n".join([*lines, sentence(plan)])


def main() -> None:
    """Run the command. An error is one line; code 2 if the call must change, else 1."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except USAGE_ERROR as error:
        _show(error)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except errors.DiffPluginError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, errors.ClientError) else 1)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _show(error: Any) -> None:
    """One line, like our own errors; a group that was called without a command shows its help."""
    message = error.format_message()
    if message and "\n" not in message:
        print(f"error: {message}", file=sys.stderr)
    else:
        error.show()


def _role_settings() -> Settings:
    """Settings of a process that is one role among others."""
    setup_logging()
    settings = read_store_settings()
    if not settings.redis_url:
        raise errors.InvalidRequest(
            "a role alone needs a Redis: set DIFFPLUGIN_REDIS_URL, e.g. redis://localhost:6379; "
            "`diffplugin serve` starts everything on one machine"
        )
    return settings


if __name__ == "__main__":
    main()
