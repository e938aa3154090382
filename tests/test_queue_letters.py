"""Dead letters on a real Redis, through the queue and through the command line."""

import asyncio
import json
import sys
import time

import pytest

from service.cli import main
from service.consumer_names import consumer_name
from service.errors import JobNotFound
from service.job_queue import JobQueue, QueueSettings, Stage
from service.jobs import (
    EditRequest,
    Job,
    JobStatus,
    Plan,
    PlannedTask,
    Priority,
    Progress,
    WorkerInfo,
)
from service.queue_letters import DeadLetters
from service.queue_records import Checkpoint

IMAGE = b"image"
PLAN = Plan(tasks=(PlannedTask(plugin="derain"), PlannedTask(plugin="desnow")))
PROGRESS = Progress(plugin="desnow", task=2, num_tasks=2, step=3, num_steps=4)


@pytest.fixture
def queue_settings() -> QueueSettings:
    """The command line's prefix, and leases that run out at once."""
    return QueueSettings(lease_s=0.001, max_deliveries=2, heartbeat_s=5.0)


async def bury(queue: JobQueue, plan: Plan | None = PLAN) -> str:
    """Id of a job whose workers were lost in its second task."""
    request = EditRequest(instruction="x", priority=Priority.LOW)
    job = Job(request=request, plan=plan, deadline_at=time.time() + 60)
    await queue.submit(job, IMAGE)
    stage = Stage.PLAN if plan is None else Stage.RUN
    give_up_at = time.monotonic() + 5.0
    while not (await queue.get(job.id)).status.is_final:
        assert time.monotonic() < give_up_at
        for claim in await queue.claim(stage, "lost worker", block_s=0.01):
            await queue.report(claim, PROGRESS)
            await queue.save(claim, Checkpoint(1, b"picture"))
    return job.id


async def test_a_letter_says_who_was_lost_where(queue: JobQueue) -> None:
    job_id = await bury(queue)
    letter, job = await DeadLetters(queue).show(job_id)
    assert [letter] == await DeadLetters(queue).all()
    assert (letter.job, letter.stage, letter.attempts) == (job_id, Stage.RUN, 2)
    assert letter.worker == "lost worker"
    assert "task 2 of 2 (desnow), after step 3 of 4" in letter.last_error
    assert job.status is JobStatus.FAILED


@pytest.mark.parametrize("plan", [PLAN, None])
async def test_a_requeued_job_runs_again_from_the_start(queue: JobQueue, plan: Plan | None) -> None:
    job_id = await bury(queue, plan)
    before = await queue.get(job_id)
    await DeadLetters(queue).requeue(job_id)
    assert await DeadLetters(queue).all() == []
    job = await queue.get(job_id)
    assert (job.status, job.error, job.attempt) == (JobStatus.QUEUED, None, 0)
    assert job.deadline_at is not None and before.deadline_at is not None
    assert job.deadline_at > before.deadline_at
    [claim] = await queue.claim(Stage.PLAN if plan is None else Stage.RUN, "healthy")
    assert (claim.job.id, claim.image, claim.delivery) == (job_id, IMAGE, 1)
    assert claim.checkpoint is None
    assert await queue.complete(claim, b"result", "image/png", claim.job.timings)
    assert await queue.result_of(job_id) == b"result"
    assert [e.status async for _, e in queue.watch(job_id)][-1] is JobStatus.SUCCEEDED
    with pytest.raises(JobNotFound):
        await DeadLetters(queue).requeue(job_id)


async def test_a_dropped_letter_leaves_no_picture(queue: JobQueue) -> None:
    job_id, other_id = await bury(queue), await bury(queue)
    await DeadLetters(queue).drop(job_id)
    assert [letter.job for letter in await DeadLetters(queue).all()] == [other_id]
    assert not await queue.redis.exists(queue.key("input", job_id))
    with pytest.raises(JobNotFound):
        await DeadLetters(queue).drop(job_id)


async def test_a_letter_without_its_picture_cannot_be_requeued_and_stays(queue: JobQueue) -> None:
    job_id = await bury(queue)
    await queue.redis.delete(queue.key("input", job_id))
    with pytest.raises(JobNotFound, match="input"):
        await DeadLetters(queue).requeue(job_id)
    assert len(await DeadLetters(queue).all()) == 1


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    monkeypatch.setattr(sys, "argv", ["diffplugin", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture
def dead_job(redis_url: str, queue_settings: QueueSettings) -> str:
    return _in_loop(redis_url, queue_settings, bury)


def _in_loop(url: str, settings: QueueSettings, work):  # type: ignore[no-untyped-def]
    """The commands run a loop of their own, so these tests are not coroutines."""

    async def with_queue():  # type: ignore[no-untyped-def]
        queue = JobQueue.connect(url, settings)
        try:
            return await work(queue)
        finally:
            await queue.close()

    return asyncio.run(with_queue())


def test_commands_list_show_requeue_and_drop(
    redis_url: str,
    dead_job: str,
    queue_settings: QueueSettings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dead(*arguments: str) -> tuple[int, str, str]:
        return run(capsys, monkeypatch, "jobs", "dead", *arguments, "--redis-url", redis_url)

    code, out, _ = dead("list")
    assert code == 0 and out.startswith(dead_job) and "2 attempts" in out
    assert json.loads(dead("list", "--json")[1])[0]["job"] == dead_job
    shown = json.loads(dead("show", dead_job)[1])
    assert (shown["letter"]["attempts"], shown["job"]["status"]) == (2, "failed")
    assert dead("requeue", dead_job)[0] == 0
    job = _in_loop(redis_url, queue_settings, lambda queue: queue.get(dead_job))
    assert job.status is JobStatus.QUEUED
    assert dead("list")[1] == "no dead letters\n"
    other = _in_loop(redis_url, queue_settings, bury)
    assert dead("drop", other)[0] == 0
    for command in ("show", "requeue", "drop"):
        code, _, err = dead(command, other)
        assert code == 2 and "no dead letter" in err and err.count("\n") == 1


def test_workers_lists_who_is_alive(
    redis_url: str,
    queue_settings: QueueSettings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(capsys, monkeypatch, "workers", "--redis-url", redis_url)[1] == "nobody is alive\n"
    info = WorkerInfo(
        name="w1", role="worker", backbone="nano", device="cpu", plugins=("derain",), free_slots=3
    )
    _in_loop(redis_url, queue_settings, lambda queue: queue.heartbeat(info))
    code, out, _ = run(capsys, monkeypatch, "workers", "--redis-url", redis_url)
    assert (code, out) == (0, "w1  worker  nano on cpu  3 free  plugins: derain\n")
    listed = json.loads(run(capsys, monkeypatch, "workers", "--json", "--redis-url", redis_url)[1])
    assert listed[0]["free_slots"] == 3


def test_workers_here_is_a_health_check(
    redis_url: str,
    queue_settings: QueueSettings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = WorkerInfo(name="worker-other-host-7-abcdef", role="worker")
    _in_loop(redis_url, queue_settings, lambda queue: queue.heartbeat(elsewhere))
    here = ("workers", "--here", "--redis-url", redis_url)
    assert run(capsys, monkeypatch, *here)[:2] == (1, "nobody is alive\n")
    info = WorkerInfo(name=consumer_name("worker"), role="worker")
    _in_loop(redis_url, queue_settings, lambda queue: queue.heartbeat(info))
    code, out, _ = run(capsys, monkeypatch, *here)
    assert code == 0 and out.startswith(info.name) and "other-host" not in out


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 2, "say which Redis"),
        (["--redis-url", "nonsense"], 2, "no address of a Redis"),
        (["--redis-url", "unix:///nowhere.sock"], 1, "Redis does not answer"),
    ],
)
def test_a_redis_that_is_not_there_is_one_clear_line(
    options: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for command in (["workers"], ["jobs", "dead", "list"], ["jobs", "dead", "drop", "x"]):
        found, _, err = run(capsys, monkeypatch, *command, *options)
        assert found == code and says in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["jobs", "dead", "show"], "Missing argument"),
        (["jobs", "dead", "shw"], "No such command 'shw'"),
        (["jobs", "dead", "list", "--jsn"], "No such option"),
        (["workers", "everyone"], "unexpected extra argument"),
        (["plugins", "publish"], "Missing argument"),
        (["plugins", "remove", "--redis"], "--redis"),
        (["serve", "--port", "9000"], "No such option"),
    ],
)
def test_a_wrong_call_is_one_clear_line(
    command: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, err = run(capsys, monkeypatch, *command)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and says in err and err.count("\n") == 1
