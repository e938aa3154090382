"""The served OpenAPI document is true: its examples run, and thousands of requests fit it."""

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from PIL import Image
from schemathesis import checks

from tests.api_stack import Stack, listening, serving


def is_no_server_error(context: Any, answer: Any, case: schemathesis.Case) -> None:
    """Late is no error of the server if the request itself brought a `timeout`."""
    brought = isinstance(case.body, dict) and "timeout" in case.body
    if not (answer.status_code == 504 and brought):
        checks.not_a_server_error(context, answer, case)


# No 5xx; a status and a media type of the document; a body of its schema.
CHECKS = [
    is_no_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    # The fake roles report once, and the long form takes minutes.
    async with serving(redis_url, tmp_path, heartbeat_s=1000.0) as stack:
        yield stack


async def test_every_example_runs(stack: Stack) -> None:
    document = (await stack.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    num_examples = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if "example" in (body := content.get("application/json", {})):
                url = path.replace("{client_id}", "example")
                answer = await stack.client.request(method, url, json=body["example"])
                assert answer.status_code in operation_codes(operation), answer.text
                num_examples += 1
                if "Location" not in answer.headers and url != "/v1/plan":
                    assert Image.open(BytesIO(answer.content)).size == (16, 16)
    assert num_examples == 3


def operation_codes(operation: dict[str, Any]) -> set[int]:
    return {int(code) for code in operation["responses"] if code != "default"}


async def test_every_reference_is_there_and_every_error_is_ours(stack: Stack) -> None:
    document = (await stack.client.get("/openapi.json")).json()
    names = set(document["components"]["schemas"])
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert used <= names and "#/$defs" not in text and "HTTPValidationError" not in text
    for methods in document["paths"].values():
        for operation in methods.values():
            [content] = operation["responses"]["default"]["content"].values()
            assert content["schema"]["$ref"].endswith(("/Problem", "/OpenAIError"))


async def test_the_page_of_routes_loads_nothing_from_elsewhere(stack: Stack) -> None:
    page = (await stack.client.get("/docs")).text
    assert "POST /v1/edit<" in page and 'href="openapi.json"' in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def send_cases(url: str, num_cases: int) -> dict[str, int]:
    """Number of cases that were sent and checked, by operation."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    sent: dict[str, int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=num_cases,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def send(case: schemathesis.Case) -> None:
            sent[case.operation.label] = sent.get(case.operation.label, 0) + 1
            case.call_and_validate(checks=CHECKS, timeout=60)

        send()
    return sent


async def fuzz(stack: Stack, num_cases: int) -> int:
    async with listening(stack.app) as url, httpx.AsyncClient(trust_env=False) as client:
        sent = await asyncio.to_thread(send_cases, url, num_cases)
        assert (await client.get(f"{url}/livez")).status_code == 200
    return sum(sent.values())


@pytest.mark.timeout(300)
async def test_requests_made_from_the_document_are_answered_as_it_says(stack: Stack) -> None:
    assert await fuzz(stack, 4) > 30


@pytest.mark.full
@pytest.mark.timeout(1800)
async def test_two_thousand_requests_made_from_the_document(stack: Stack) -> None:
    num_sent = await fuzz(stack, 200)
    print(f"\n{num_sent} requests were sent")
    assert num_sent >= 2000
