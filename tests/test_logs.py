"""Log lines carry what they are about, in both formats."""

import json
import logging

from service.logs import JsonFormatter, PlainFormatter


def record(**context: object) -> logging.LogRecord:
    logger = logging.getLogger("service.test")
    return logger.makeRecord(
        logger.name, logging.INFO, __file__, 1, "took %d jobs", (3,), None, extra=context
    )


def test_json_line_has_the_job_and_the_message() -> None:
    line = json.loads(JsonFormatter().format(record(job_id="j1", other="x")))
    assert line["message"] == "took 3 jobs"
    assert line["job_id"] == "j1"
    assert line["level"] == "info"
    assert "other" not in line


def test_plain_line_has_the_job_at_its_end() -> None:
    line = PlainFormatter().format(record(job_id="j1"))
    assert line.endswith("service.test took 3 jobs job_id=j1")


def test_traceback_is_in_the_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        failed = record()
        failed.exc_info = (ValueError, error, error.__traceback__)
    assert "ValueError: broken" in json.loads(JsonFormatter().format(failed))["traceback"]
    assert "ValueError: broken" in PlainFormatter().format(failed)
