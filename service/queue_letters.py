"""Dead letters: jobs that were given up because each worker that took them was lost."""

import time
from typing import Any, NamedTuple

from service import queue_scripts as scripts
from service.errors import JobNotFound
from service.job_queue import JobQueue
from service.jobs import Job, JobStatus, Timings
from service.queue_records import DeadLetter, Stage, changed, to_fields
from service.queue_streams import outages_named

PAGE = 1000


class Found(NamedTuple):
    """A letter and its entry in the stream."""

    entry: str
    letter: DeadLetter


class DeadLetters:
    """What an operator does with them. A requeued job runs as if it had just been sent."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self._requeue = queue.redis.register_script(scripts.REQUEUE)

    async def all(self) -> list[DeadLetter]:
        """Oldest first."""
        return [found.letter for found in await self._entries()]

    async def count(self) -> int:
        with outages_named():
            num: int = await self.queue.redis.xlen(self.queue.key("dead"))
        return num

    async def show(self, job_id: str) -> tuple[DeadLetter, Job]:
        """A letter and its job; JobNotFound if there is no letter of that job."""
        found = await self._find(job_id)
        return found.letter, await self.queue.get(job_id)

    async def requeue(self, job_id: str) -> Job:
        """Queue the job again, with as much time as it had."""
        found = await self._find(job_id)
        job = _fresh(await self.queue.get(job_id))
        keys, args = self.queue.call_of(job, Stage.PLAN if job.plan is None else Stage.RUN)
        with outages_named():
            done: Any = await self._requeue(
                [*keys, self.queue.key("dead")], [*args, found.entry, job.id, *to_fields(job)]
            )
        if done < 0:
            raise JobNotFound(f"the input of job {job_id!r} is gone; drop the letter")
        if done == 0:
            raise _no_letter(job_id)
        return job

    async def drop(self, job_id: str) -> None:
        """Forget the letter and the input that was kept with it."""
        found = await self._find(job_id)
        async with self.queue.redis.pipeline(transaction=True) as pipe:
            pipe.xdel(self.queue.key("dead"), found.entry)
            pipe.delete(self.queue.key("input", job_id))
            with outages_named():
                await pipe.execute()

    async def _find(self, job_id: str) -> Found:
        for found in await self._entries():
            if found.letter.job == job_id:
                return found
        raise _no_letter(job_id)

    async def _entries(self) -> list[Found]:
        letters: list[Found] = []
        start = "-"
        while True:
            with outages_named():
                page: Any = await self.queue.redis.xrange(self.queue.key("dead"), start, "+", PAGE)
            for entry, fields in page:
                letter = DeadLetter.model_validate_json(fields[b"letter"])
                letters.append(Found(entry.decode(), letter))
            if len(page) < PAGE:
                return letters
            start = f"({letters[-1].entry}"


def _no_letter(job_id: str) -> JobNotFound:
    return JobNotFound(
        f"there is no dead letter of job {job_id!r}; see those there are: diffplugin jobs dead list"
    )


def _fresh(job: Job) -> Job:
    """The job as it was sent, now."""
    now = time.time()
    allowed_s = None if job.deadline_at is None else job.deadline_at - job.created_at
    return changed(
        job,
        status=JobStatus.QUEUED,
        progress=None,
        timings=Timings(),
        attempt=0,
        worker=None,
        error=None,
        created_at=now,
        deadline_at=None if allowed_s is None else now + allowed_s,
        finished_at=None,
    )
