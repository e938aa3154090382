"""What a job costs Redis: memory that stays, and work from the first jobs to the last.

    python -m loadtests.queue_cost [--jobs 10000]

It starts a Redis of its own and passes tiny jobs through the queue, from submission to result, in
waves. It prints its figures as JSON; exit code 1 if Redis keeps more than 5 % memory after the last
job has expired.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass

from service.job_queue import Claim, JobQueue, QueueSettings, Stage
from service.jobs import EditRequest, Job, Plan, PlannedTask, Progress
from service.redis_server import PrivateRedis

PLAN = Plan(tasks=(PlannedTask(plugin="derain"),), source="request")
PROGRESS = Progress(plugin="derain", task=1, num_tasks=1, step=1, num_steps=1)
IMAGE = b"\x89PNG" + 508 * b"."
WAVE = 50
TTL_S = 3
MOST_GROWTH = 0.05
EXPIRY_TIMEOUT_S = 60.0
QUIET_S = 3.0


@dataclass(frozen=True)
class Use:
    """Of one tenth of the jobs: CPU seconds of Redis and of this process, commands of Redis."""

    redis_cpu_s: float
    client_cpu_s: float
    commands: int

    def since(self, before: "Use") -> "Use":
        return Use(
            self.redis_cpu_s - before.redis_cpu_s,
            self.client_cpu_s - before.client_cpu_s,
            self.commands - before.commands,
        )


@dataclass(frozen=True)
class Report:
    """Ratios are of the last tenth of the jobs to the first."""

    jobs: int
    memory_before: int
    memory_after: int
    memory_growth: float
    keys_left: int
    cpu_ms_per_job: float
    cpu_ratio: float
    commands_ratio: float
    seconds: float


async def measure(redis_url: str, num_jobs: int) -> Report:
    settings = QueueSettings(prefix="cost", result_ttl_s=TTL_S, max_depth=2 * WAVE)
    queue = JobQueue.connect(redis_url, settings)
    began = time.monotonic()
    try:
        await pass_through(queue, 4 * WAVE)  # scripts, groups and connections are there from now on
        keys_before = await settle(queue, None)
        before = await memory(queue)
        tenths = []
        for _ in range(10):
            start = await use(queue)
            await pass_through(queue, num_jobs // 10)
            tenths.append((await use(queue)).since(start))
        keys_left = await settle(queue, keys_before) - keys_before
        after = await memory(queue)
    finally:
        await queue.close()
    cpu_s = [tenth.redis_cpu_s + tenth.client_cpu_s for tenth in tenths]
    return Report(
        jobs=num_jobs,
        memory_before=before,
        memory_after=after,
        memory_growth=round(after / before - 1, 4),
        keys_left=keys_left,
        cpu_ms_per_job=round(1000 * sum(cpu_s) / num_jobs, 3),
        cpu_ratio=round(cpu_s[-1] / cpu_s[0], 3),
        commands_ratio=round(tenths[-1].commands / tenths[0].commands, 3),
        seconds=round(time.monotonic() - began, 1),
    )


async def pass_through(queue: JobQueue, num_jobs: int) -> None:
    for _ in range(num_jobs // WAVE):
        # An open job is kept past its deadline: on a slow machine none expires on its way.
        late = time.time() + EXPIRY_TIMEOUT_S
        jobs = (Job(request=EditRequest(), plan=PLAN, deadline_at=late) for _ in range(WAVE))
        await asyncio.gather(*(queue.submit(job, IMAGE) for job in jobs))
        claims = await queue.claim(Stage.RUN, "worker", WAVE)
        assert len(claims) == WAVE, "every job of a wave is claimed at once"
        await asyncio.gather(*(finish(queue, claim) for claim in claims))


async def finish(queue: JobQueue, claim: Claim) -> None:
    assert await queue.report(claim, PROGRESS)
    assert await queue.complete(claim, IMAGE, "image/png", claim.job.timings)


async def settle(queue: JobQueue, num_keys: int | None) -> int:
    """Number of keys, once the jobs have expired."""
    give_up_at = time.monotonic() + EXPIRY_TIMEOUT_S
    while time.monotonic() < give_up_at:
        await asyncio.sleep(0.2)
        num = int(await queue.redis.dbsize())
        num_jobs = len(await queue.redis.keys("cost:job:*"))
        if not num_jobs and (num_keys is None or num <= num_keys):
            break
    return int(await queue.redis.dbsize())


async def memory(queue: JobQueue) -> int:
    """Of an idle Redis: neither the buffers of our connections nor its log are a cost of a job.

    Redis shrinks its tables little by little, so this waits until nothing more is given back.
    """
    await queue.redis.connection_pool.disconnect()
    await queue.redis.slowlog_reset()  # kept of slow commands, on a busy machine
    await queue.redis.memory_purge()
    least, give_up_at = sys.maxsize, time.monotonic() + QUIET_S
    while time.monotonic() < give_up_at:
        used = int((await queue.redis.info("memory"))["used_memory"])
        if used < least:
            least, give_up_at = used, time.monotonic() + QUIET_S
        await asyncio.sleep(0.2)
    return least


async def use(queue: JobQueue) -> Use:
    cpu = await queue.redis.info("cpu")
    commands = (await queue.redis.info("stats"))["total_commands_processed"]
    redis_cpu_s = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
    return Use(redis_cpu_s, time.process_time(), int(commands))


def main() -> None:
    parser = argparse.ArgumentParser(description="What a job costs Redis.")
    parser.add_argument("--jobs", type=int, default=10_000)
    options = parser.parse_args()
    with PrivateRedis() as redis:
        report = asyncio.run(measure(redis.url, options.jobs))
    print(json.dumps(asdict(report), indent=2))
    sys.exit(0 if report.memory_growth <= MOST_GROWTH and report.keys_left <= 0 else 1)


if __name__ == "__main__":
    main()
