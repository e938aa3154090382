"""`diffplugin jobs` and `diffplugin workers`: look after a running fleet through its Redis."""

import json
import time
from typing import Annotated

import typer

from service.cli_queue import AsJson, RedisUrl, ask
from service.consumer_names import is_of_this_host
from service.jobs import Job, WorkerInfo
from service.queue_letters import DeadLetters
from service.queue_records import DeadLetter

jobs_app = typer.Typer(help="Look after jobs.", no_args_is_help=True)
dead_app = typer.Typer(help="Jobs that were given up: each worker was lost.", no_args_is_help=True)
jobs_app.add_typer(dead_app, name="dead")

JobId = Annotated[str, typer.Argument(help="A job that `jobs dead list` shows.")]


@dead_app.command("list")
def list_dead(redis_url: RedisUrl = None, as_json: AsJson = False) -> None:
    """One line per dead letter, oldest first."""
    letters = ask(redis_url, lambda queue: DeadLetters(queue).all())
    if as_json:
        print(json.dumps([letter.model_dump(mode="json") for letter in letters], indent=2))
        return
    for letter in letters:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.at))
        print(f"{letter.job}  {at}  {letter.attempts} attempts  {letter.last_error}")
    if not letters:
        print("no dead letters")


@dead_app.command("show")
def show_dead(job_id: JobId, redis_url: RedisUrl = None) -> None:
    """A letter with its whole job, as JSON."""
    letter, job = ask(redis_url, lambda queue: DeadLetters(queue).show(job_id))
    print(json.dumps({"letter": _plain(letter), "job": _plain(job)}, indent=2))


@dead_app.command("requeue")
def requeue_dead(job_id: JobId, redis_url: RedisUrl = None) -> None:
    """Run the job again; its id stays."""
    ask(redis_url, lambda queue: DeadLetters(queue).requeue(job_id))
    print(f"job {job_id} is queued again")


@dead_app.command("drop")
def drop_dead(job_id: JobId, redis_url: RedisUrl = None) -> None:
    """Forget a letter and the picture that was kept with it."""
    ask(redis_url, lambda queue: DeadLetters(queue).drop(job_id))
    print(f"the dead letter of job {job_id} is dropped")


def workers(
    redis_url: RedisUrl = None,
    as_json: AsJson = False,
    here: Annotated[
        bool, typer.Option("--here", help="Of this host; code 1 if none: a health check.")
    ] = False,
) -> None:
    """Live workers and selectors: what they run on, what they serve, how much room they have."""
    infos = ask(redis_url, lambda queue: queue.workers())
    if here:
        infos = [info for info in infos if is_of_this_host(info.name)]
    _print_workers(infos, as_json)
    if here and not infos:
        raise typer.Exit(1)


def _print_workers(infos: list[WorkerInfo], as_json: bool) -> None:
    if as_json:
        print(json.dumps([_plain(info) for info in infos], indent=2))
        return
    for info in infos:
        plugins = ",".join(info.plugins) or "none"
        print(
            f"{info.name}  {info.role}  {info.backbone} on {info.device or '?'}  "
            f"{info.free_slots} free  plugins: {plugins}"
        )
    if not infos:
        print("nobody is alive")


def _plain(record: DeadLetter | Job | WorkerInfo) -> object:
    return record.model_dump(mode="json")
