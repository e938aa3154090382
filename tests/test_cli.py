import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from service.cli import app, format_scores, main
from service.jobs import Plan, PlannedTask
from service.plugin_manifest import WEIGHTS, plugin_folder
from tests.tiny_base import BASE, write_tiny_base, write_tiny_plugin
from tests.tiny_selector import write_tiny_selector


@pytest.fixture(scope="module")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plugins_store with base "tiny" and the plugin "derain"."""
    store = tmp_path_factory.mktemp("store")
    write_tiny_base(store)
    write_tiny_plugin(store, "derain", seed=1)
    write_tiny_selector(store, BASE, ("derain", "face"), threshold=-2.0)
    return store


@pytest.fixture
def store(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFPLUGIN_PLUGINS_STORE", str(tiny_store))
    monkeypatch.setenv("DIFFPLUGIN_BASE", BASE)
    return tiny_store


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.effect_noise((64, 48), 60).convert("RGB").save(path)
    return path


def command_paths() -> list[list[str]]:
    def walk(command: click.Command, path: list[str]) -> Iterator[list[str]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, [*path, name])

    return list(walk(typer.main.get_command(app), []))


def run_main(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """Exit code and stderr of the whole command."""
    monkeypatch.setattr(sys, "argv", ["diffplugin", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def test_the_command_has_every_subcommand() -> None:
    paths = {" ".join(path) for path in command_paths()}
    assert paths >= {"serve", "api", "selector", "worker", "edit", "plan"}
    assert paths >= {"plugins list", "plugins show", "plugins verify"}
    assert paths >= {"train base", "train plugin", "train selector"}
    assert paths >= {"evaluate restoration", "evaluate selector"}


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_every_command_explains_itself(path: list[str]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_the_command_line_loads_no_torch_until_a_command_needs_it() -> None:
    code = (
        "import sys, service.cli; print(sorted({'torch', 'cv2', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_edit_writes_a_picture_of_the_same_size_without_a_server(
    store: Path, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jpg"
    result = CliRunner().invoke(app, ["edit", str(picture), "--plugin", "derain", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "plan: derain" in result.stdout
    with Image.open(out) as restored:
        assert (restored.format, restored.size) == ("JPEG", (64, 48))


def test_edit_takes_a_folder_and_loads_the_models_once(
    store: Path, picture: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "restored"
    folder.mkdir()
    for name in ("one.png", "two.png"):
        shutil.copy(picture, folder / name)
    (folder / "broken.png").write_bytes(b"text")
    arguments = ["edit", str(folder), "--plugin", "derain", "-o", str(out), "--format", "webp"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1, result.output
    assert "2 edited, 0 there already, 1 failed" in result.stdout
    assert "broken.png: the file is not an image" in result.stdout
    names = sorted(path.name for path in out.iterdir())
    assert names == ["one.png.webp", "two.png.webp"]
    (folder / "broken.png").unlink()
    again = CliRunner().invoke(app, arguments)
    assert (again.exit_code, "0 edited, 2 there already" in again.stdout) == (0, True)


def test_edit_keeps_what_the_mask_leaves_black_and_writes_other_formats(
    store: Path, picture: Path, tmp_path: Path
) -> None:
    mask, out = tmp_path / "mask.png", tmp_path / "out.png"
    Image.new("L", (64, 48)).save(mask)
    with Image.open(mask) as image:
        image.paste(255, (0, 0, 32, 48))
        image.save(mask)
    arguments = ["edit", str(picture), "--plugin", "derain", "--mask", str(mask), "-o"]
    assert CliRunner().invoke(app, [*arguments, str(out)]).exit_code == 0
    with Image.open(picture) as before, Image.open(out) as after:
        right, left = (32, 0, 64, 48), (0, 0, 32, 48)
        assert after.crop(right).tobytes() == before.crop(right).tobytes()
        assert after.crop(left).tobytes() != before.crop(left).tobytes()
    avif = tmp_path / "out.avif"
    arguments[-1:] = ["--quality", "60", "--metadata", "strip", "-o", str(avif)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    with Image.open(avif) as image:
        assert (image.format, image.size) == ("AVIF", (64, 48))


def test_edit_refuses_a_quality_of_a_lossless_format(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["edit", str(picture), "derain", "--quality", "50", "-o", "out.png"]
    code, stderr = run_main(arguments, monkeypatch, capsys)
    assert code == 2
    assert "--quality" in stderr


def test_edit_plans_the_sentence_and_says_what_is_not_installed(
    store: Path, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    result = CliRunner().invoke(app, ["edit", str(picture), "remove the rain", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "derain (" in result.stdout and "not installed: face" in result.stdout
    assert out.read_bytes() != picture.read_bytes()


def test_edit_leaves_the_picture_as_it_is_if_nothing_fits(
    store: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(store, tmp_path / "copy")
    monkeypatch.setenv("DIFFPLUGIN_PLUGINS_STORE", str(copy))
    write_tiny_selector(copy, BASE, ("derain",), threshold=2.0)
    out = tmp_path / "out.png"
    result = CliRunner().invoke(app, ["edit", str(picture), "hello", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "nothing to run" in result.stdout
    assert out.read_bytes() == picture.read_bytes()


def test_plan_prints_scores_as_a_table_or_as_json(store: Path, picture: Path) -> None:
    arguments = ["plan", str(picture), "remove the rain"]
    table = CliRunner().invoke(app, arguments).stdout
    found = Plan.model_validate_json(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert "not installed" in table and "threshold" in table
    assert found.runnable == ("derain",)
    assert found.scores.keys() == {"derain", "face"}


def test_the_selector_is_measured_on_sentences(store: Path, tmp_path: Path) -> None:
    instructions, predictions = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    instructions.write_text(json.dumps({"id": "a", "text": "the rain", "labels": ["derain"]}))
    arguments = ["--instructions", str(instructions), "--predictions", str(predictions)]
    result = CliRunner().invoke(app, ["evaluate", "selector", *arguments])
    assert result.exit_code == 0, result.output
    line = json.loads(predictions.read_text())
    assert (line["id"], set(line["labels"])) == ("a", {"derain", "face"})
    assert json.loads(result.stdout)["items"] == 1


def test_edit_is_the_same_for_the_same_seed_and_shows_its_steps(
    store: Path, picture: Path, tmp_path: Path
) -> None:
    arguments = ["edit", str(picture), "--plugin", "derain", "--steps", "3", "--seed", "5", "-o"]
    results = []
    for name in ("a.png", "b.png"):
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / name)])
        results.append((tmp_path / name).read_bytes())
        assert "3/3" in result.stderr
    assert results[0] == results[1]
    assert results[0] != picture.read_bytes()


def test_an_unknown_plugin_is_one_clear_line(
    store: Path,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, stderr = run_main(["edit", str(picture), "--plugin", "derian"], monkeypatch, capsys)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "derian" in stderr and "derain" in stderr


def test_edit_refuses_an_output_that_is_no_picture_before_it_works(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stderr = run_main(
        ["edit", str(picture), "remove the rain", "-o", "out.gif"], monkeypatch, capsys
    )
    assert code == 2
    assert ".png" in stderr


def test_edit_asks_for_something_to_do(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stderr = run_main(["edit", str(picture)], monkeypatch, capsys)
    assert code == 2
    assert "say what to do" in stderr


def test_edit_through_a_server_that_is_not_there_says_so(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFPLUGIN_REQUEST_TIMEOUT_S", "0.2")
    server = "http://127.0.0.1:9"
    code, stderr = run_main(
        ["edit", str(picture), "remove the rain", "--server", server], monkeypatch, capsys
    )
    assert (code, stderr.count("\n")) == (1, 1)
    assert server in stderr


def test_a_missing_plugins_store_is_named_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, stderr = run_main(["plugins", "list"], monkeypatch, capsys)
    assert code == 2
    assert str(tmp_path / "plugins_store") in stderr
    assert "DIFFPLUGIN_PLUGINS_STORE" in stderr


def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIFFPLUGIN_PORT", "many")
    code, stderr = run_main(["plugins", "list"], monkeypatch, capsys)
    assert code == 2
    assert "DIFFPLUGIN_PORT" in stderr


@pytest.mark.parametrize("role", ["api", "selector", "worker"])
def test_a_role_alone_asks_for_a_redis(
    role: str, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stderr = run_main([role], monkeypatch, capsys)
    assert code == 2
    assert "DIFFPLUGIN_REDIS_URL" in stderr


def test_plugins_are_listed_as_lines_and_as_json(store: Path) -> None:
    lines = CliRunner().invoke(app, ["plugins", "list"]).stdout
    listed = json.loads(CliRunner().invoke(app, ["plugins", "list", "--json"]).stdout)
    assert "Task derain" in lines
    assert [plugin["name"] for plugin in listed] == ["derain"]


def test_show_prints_the_manifest(store: Path) -> None:
    result = CliRunner().invoke(app, ["plugins", "show", "derain"])
    assert '"example_instructions"' in result.stdout


def test_verify_accepts_whole_weights_and_finds_changed_ones(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(store, tmp_path / "copy")
    monkeypatch.setenv("DIFFPLUGIN_PLUGINS_STORE", str(copy))
    write_tiny_plugin(copy, "broken", seed=2)
    weights = plugin_folder(copy, BASE, "broken") / WEIGHTS
    weights.write_bytes(weights.read_bytes() + b"\0")
    whole = CliRunner().invoke(app, ["plugins", "verify", "derain"])
    every = CliRunner().invoke(app, ["plugins", "verify"])
    assert (whole.exit_code, every.exit_code) == (0, 1)
    assert "derain       ok" in every.stdout
    assert "broken       BAD" in every.stdout


def test_a_plugin_is_trained_and_installed(store: Path, picture: Path, tmp_path: Path) -> None:
    arguments = ["--images", str(picture.parent), "--run-dir", str(tmp_path / "run")]
    arguments += ["--steps", "1", "--batch-size", "1", "--size", "32", "--version", "2.0.0"]
    arguments += ["--stage-steps", "1", "--stage-pairs", "1", "--tone-steps", "1"]
    # accelerate keeps the precision of the first run of a process.
    arguments += ["--mixed-precision", "no"]
    result = CliRunner().invoke(app, ["train", "plugin", "lowlight", *arguments])
    assert result.exit_code == 0, result.output
    assert "installed lowlight 2.0.0" in result.stdout
    assert CliRunner().invoke(app, ["plugins", "verify", "lowlight"]).exit_code == 0
    assert "Brighten" in CliRunner().invoke(app, ["plugins", "show", "lowlight"]).stdout


def test_a_plugin_that_nothing_trains_is_refused(
    store: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, stderr = run_main(
        ["train", "plugin", "dust", "--images", str(picture.parent)], monkeypatch, capsys
    )
    assert code == 2
    assert "--degradation" in stderr and "derain" in stderr


def test_restoration_is_measured_into_json_and_sheet(
    store: Path, picture: Path, tmp_path: Path
) -> None:
    report, sheet = tmp_path / "r.json", tmp_path / "sheet.png"
    arguments = ["--images", str(picture.parent), "--tasks", "derain", "--size", "64"]
    arguments += ["--json", str(report), "--sheet", str(sheet)]
    result = CliRunner().invoke(app, ["evaluate", "restoration", *arguments])
    assert result.exit_code == 0, result.output
    assert json.loads(report.read_text())["tasks"]["derain"]["num_photos"] == 1
    assert sheet.stat().st_size > 0
    assert result.stdout.splitlines()[1].startswith("derain")


def test_tasks_that_are_not_installed_are_not_measured(
    store: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "restoration", "--images", str(picture.parent), "--tasks", "dewarp"]
    code, stderr = run_main(arguments, monkeypatch, capsys)
    assert code == 2
    assert "dewarp" in stderr


def test_a_folder_without_photos_is_one_clear_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "restoration", "--images", str(tmp_path), "--tasks", "derain"]
    code, stderr = run_main(arguments, monkeypatch, capsys)
    assert (code, stderr.splitlines()[-1].startswith("error: no image")) == (2, True)


def test_scores_are_a_table_with_the_order_and_what_is_missing() -> None:
    tasks = (PlannedTask(plugin="derain", score=0.8), PlannedTask(plugin="face", score=0.7))
    missing = tasks[1].model_copy(update={"installed": False})
    plan = Plan(
        tasks=(tasks[0], missing),
        scores={"desnow": 0.1, "face": 0.7, "derain": 0.8},
        threshold=0.5,
    )
    lines = format_scores(plan).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["derain", "face", "desnow"]
    assert lines[1].endswith("1") and lines[2].endswith("not installed")
    assert lines[-1] == "plan: derain (0.80); not installed: face"
