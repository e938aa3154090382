"""Random runs of the queue on a real Redis, checked against a model of it after every step."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service import errors
from service.job_queue import Claim, JobQueue, QueueSettings, Stage
from service.jobs import EditRequest, Job, JobError, JobStatus, Plan, PlannedTask, Progress
from service.queue_letters import DeadLetters
from service.queue_records import Checkpoint
from service.queue_streams import GROUP
from service.redis_server import PrivateRedis

PLAN = Plan(tasks=(PlannedTask(plugin="derain"), PlannedTask(plugin="desnow")), source="request")
FAILURE = JobError(code="edit_failed", detail="the engine could not")
IMAGE = b"picture"
MAX_DEPTH, MAX_DELIVERIES, NEVER_S = 4, 3, 10_000.0
Answer = TypeVar("Answer")


@dataclass
class Model:
    """What is known of one job. `holder`: the claim that may act; `ready`: it may be claimed."""

    stage: Stage
    status: JobStatus = JobStatus.QUEUED
    deliveries: int = 0
    holder: Claim | None = None
    is_fresh: bool = True  # never delivered in its stage: it counts as waiting
    num_done: int = 0
    result: bytes | None = None
    is_dead: bool = False

    @property
    def is_final(self) -> bool:
        return self.status.is_final

    def end(self, status: JobStatus, result: bytes | None = None) -> None:
        self.status, self.holder, self.result = status, None, result


@dataclass
class Held:
    """A claim as a consumer remembers it, whether it still holds or not."""

    claim: Claim
    results: list[bytes] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """Consumers claim, work, die, come back late; callers submit and cancel."""

    url: str  # set by the test
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        with redis.Redis.from_url(self.url) as client:
            client.flushall()
        self.loop = asyncio.new_event_loop()
        self.queue = JobQueue.connect(
            self.url,
            QueueSettings(
                prefix="m", lease_s=NEVER_S, max_depth=MAX_DEPTH, max_deliveries=MAX_DELIVERIES
            ),
        )
        self.jobs: dict[str, Model] = {}
        self.num_results = 0

    def teardown(self) -> None:
        self.wait(self.queue.close())
        self.loop.close()

    def wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60.0))

    # -- callers -------------------------------------------------------------------------------

    @rule(is_planned=st.booleans())
    def submit(self, is_planned: bool) -> None:
        plan = PLAN if is_planned else None
        job = Job(request=EditRequest(), plan=plan, deadline_at=time.time() + NEVER_S)
        is_full = sum(model.is_fresh for model in self.jobs.values()) >= MAX_DEPTH
        try:
            self.wait(self.queue.submit(job, IMAGE))
        except errors.Overloaded:
            assert is_full
            return
        assert not is_full
        self.jobs[job.id] = Model(Stage.RUN if is_planned else Stage.PLAN)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        model = self.jobs[job_id]
        job = self.wait(self.queue.cancel(job_id))
        if not model.is_final:
            model.end(JobStatus.CANCELED)
        assert job.status is model.status

    @precondition(lambda self: any(model.is_dead for model in self.jobs.values()))
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        dead = [job_id for job_id, model in self.jobs.items() if model.is_dead]
        job_id = data.draw(st.sampled_from(dead))
        job = self.wait(DeadLetters(self.queue).requeue(job_id))
        self.jobs[job_id] = Model(Stage.PLAN if job.plan is None else Stage.RUN)

    # -- consumers -----------------------------------------------------------------------------

    @rule(target=held, stage=st.sampled_from(Stage), consumer=st.sampled_from("abc"))
    def claim(self, stage: Stage, consumer: str) -> Held | None:
        """What may be claimed is: first what was given back or lost, then what is new."""
        claims = self.wait(self.queue.claim(stage, consumer))
        self._settle(stage, {claim.job.id for claim in claims})
        if not claims:
            return None
        (claim,) = claims
        model = self.jobs[claim.job.id]
        assert not model.is_final and model.holder is None and model.stage is stage
        model.deliveries += 1
        assert claim.delivery == model.deliveries <= MAX_DELIVERIES
        assert (claim.checkpoint.num_tasks if claim.checkpoint else 0) == model.num_done
        model.holder, model.is_fresh = claim, False
        model.status = JobStatus.RUNNING if stage is Stage.RUN else JobStatus.PLANNING
        return Held(claim)

    def _settle(self, stage: Stage, claimed: set[str]) -> None:
        """A claim that skips ended jobs takes their entries away; one delivered too often dies."""
        for job_id, model in self.jobs.items():
            if model.stage is not stage or job_id in claimed:
                continue
            job = self.wait(self.queue.get(job_id))
            if not model.is_final and job.status.is_final:
                assert (job.status, model.deliveries) == (JobStatus.FAILED, MAX_DELIVERIES)
                assert model.holder is None
                model.end(JobStatus.FAILED)
                model.is_dead = True
            if model.is_final:
                model.is_fresh = model.is_fresh and self._is_waiting(job_id, stage)

    def _is_waiting(self, job_id: str, stage: Stage) -> bool:
        entries = self.wait(self.queue.redis.xrange(f"m:stream:{stage}:normal"))
        return any(fields[b"job"] == job_id.encode() for _, fields in entries)

    @rule(held=consumes(held))
    def lose_lease(self, held: Held | None) -> None:
        """As if the consumer had been silent for a lease; it does not know."""
        if held is None or not self._holds(held):
            return
        claim = held.claim
        self.wait(
            self.queue.redis.xclaim(
                f"m:stream:{claim.stage}:normal", GROUP, claim.consumer, 0, [claim.entry],
                idle=int(2000 * NEVER_S), justid=True,
            )
        )  # fmt: skip
        self.jobs[claim.job.id].holder = None
        self.queue._streams[claim.stage]._next_reclaim_at = 0.0

    @rule(held=held)
    def renew_or_report(self, held: Held | None) -> None:
        if held is None or self._is_claimable(held):
            return
        progress = Progress(plugin="derain", task=1, num_tasks=2, step=1, num_steps=2)
        holds = self._holds(held)
        assert bool(self.wait(self.queue.renew([held.claim]))) is not holds
        assert self.wait(self.queue.report(held.claim, progress)) is holds

    @rule(held=held)
    def save(self, held: Held | None) -> None:
        if held is None or held.claim.stage is Stage.PLAN or self._is_claimable(held):
            return
        holds = self._holds(held)
        assert self.wait(self.queue.save(held.claim, Checkpoint(1, b"half done"))) is holds
        if holds:
            self.jobs[held.claim.job.id].num_done = 1

    @rule(held=held, kind=st.sampled_from(["complete", "fail", "release", "retry", "plan"]))
    def end(self, held: Held | None, kind: str) -> None:
        """Whatever a claim ends with counts only while it holds."""
        if held is None or self._is_claimable(held):
            return
        if (kind == "plan") is not (held.claim.stage is Stage.PLAN) and kind != "release":
            return
        holds, model = self._holds(held), self.jobs[held.claim.job.id]
        self.num_results += 1
        result = f"result {self.num_results}".encode()
        assert self.wait(self._end(held.claim, kind, result)) is holds
        if not holds:
            return
        if kind == "complete":
            model.end(JobStatus.SUCCEEDED, result)
        elif kind == "fail":
            model.end(JobStatus.FAILED)
        elif kind == "plan":
            self.jobs[held.claim.job.id] = Model(Stage.RUN)
        elif kind == "retry" and model.deliveries == MAX_DELIVERIES:
            model.end(JobStatus.FAILED)
            model.is_dead = True
        else:
            model.holder, model.status = None, JobStatus.QUEUED
            model.deliveries -= kind == "release"
            self.queue._streams[held.claim.stage]._next_reclaim_at = 0.0

    def _end(self, claim: Claim, kind: str, result: bytes) -> Coroutine[Any, Any, bool]:
        if kind == "complete":
            return self.queue.complete(claim, result, "image/png", claim.job.timings)
        if kind == "fail":
            return self.queue.fail(claim, FAILURE)
        if kind == "retry":
            return self.queue.retry(claim, FAILURE)
        return self.queue.planned(claim, PLAN, 0.1) if kind == "plan" else self.queue.release(claim)

    def _holds(self, held: Held) -> bool:
        return self.jobs[held.claim.job.id].holder is held.claim

    def _is_claimable(self, held: Held) -> bool:
        """Idle for a lease and not taken yet: its old holder may still act, and it is undecided."""
        model = self.jobs[held.claim.job.id]
        is_last = model.deliveries == held.claim.delivery and model.stage is held.claim.stage
        return is_last and model.holder is None and not model.is_final

    # -- what always holds ---------------------------------------------------------------------

    @invariant()
    def every_job_is_as_the_model_says(self) -> None:
        for job_id, model in self.jobs.items():
            job = self.wait(self.queue.get(job_id))
            if job.status is JobStatus.QUEUED or model.holder is not None or model.is_final:
                assert job.status is model.status, (job, model)
            if model.result is not None:
                assert self.wait(self.queue.result_of(job_id)) == model.result

    @invariant()
    def every_end_was_published_once(self) -> None:
        for job_id, model in self.jobs.items():
            entries = self.wait(self.queue.redis.xrange(f"m:events:{job_id}"))
            ends = [f for _, f in entries if b'"finished' in f[b"event"] or _is_end(f[b"event"])]
            assert len(ends) == model.is_final

    @invariant()
    def the_load_is_that_of_the_open_jobs(self) -> None:
        num_open = sum(not model.is_final for model in self.jobs.values())
        load = self.wait(self.queue.redis.hgetall("m:load"))
        requeued = {name for name in load if name not in (b"bytes", b"work")}
        assert int(load.get(b"bytes", 0)) == len(IMAGE) * len(requeued)
        assert len(requeued) <= num_open


def _is_end(event: bytes) -> bool:
    final = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.EXPIRED)
    return any(f'"status":"{status}"'.encode() in event for status in final)


def run(num_examples: int, redis_server: PrivateRedis) -> None:
    QueueMachine.url = redis_server.url
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_random_runs_agree_with_the_model(redis_server: PrivateRedis) -> None:
    run(15, redis_server)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_many_random_runs_agree_with_the_model(redis_server: PrivateRedis) -> None:
    run(300, redis_server)
