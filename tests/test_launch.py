from pathlib import Path

import pytest

from service.launch import ServiceDidNotStart, running_service


def test_a_service_that_cannot_start_is_reported_with_its_log(tmp_path: Path) -> None:
    settings = {"DIFFPLUGIN_BASE": "absent_base"}
    with (
        pytest.raises(ServiceDidNotStart, match="(?s)ended with code.*absent_base"),
        running_service(tmp_path / "service.log", timeout_s=30.0, settings=settings),
    ):
        pytest.fail("it cannot be ready")
