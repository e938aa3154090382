"""The web page in a real Chromium: what a visitor does on it, seen from outside."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, FilePayload, expect

from service.api_keys import KeyFile
from tests.page_stack import PageService, Visitor, chromium, page_service

WINDOWS = {"phone": (360, 740), "desk": (1440, 900)}
WIDTH, HEIGHT = 240, 160
RESTORED = round(255 * (60 / 255) ** 0.5)  # what the worker makes of the photo's dark half


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def service(redis_url: str, tmp_path: Path) -> Iterator[PageService]:
    with page_service(redis_url, tmp_path) as service:
        yield service


@pytest.fixture(params=WINDOWS)
def window(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def visitor(browser: Browser, service: PageService, window: str) -> Iterator[Visitor]:
    """At the open page. In every test: no errors, nothing from elsewhere, 0 axe violations."""
    width, height = WINDOWS[window]
    scheme = "dark" if window == "phone" else "light"
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    visitor = Visitor(context.new_page(), service)
    visitor.open()
    yield visitor
    visitor.check_accessibility()
    visitor.check_width()
    context.close()
    assert not visitor.complaints
    foreign = [url for url in visitor.urls if not url.startswith((service.url, "blob:", "data:"))]
    assert not foreign


on_a_desk = pytest.mark.parametrize("window", ["desk"], indirect=True)


def photo_file(name: str = "street.png") -> FilePayload:
    """A dark picture whose halves differ."""
    pixels = np.full((HEIGHT, WIDTH, 3), 60, dtype=np.uint8)
    pixels[:, WIDTH // 2 :] = 90
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": buffer.getvalue()}


def give_photo(visitor: Visitor) -> None:
    visitor.page.set_input_files("#file", files=[photo_file()])
    visitor.page.wait_for_selector("#viewer:not([hidden])")


def make_plan(visitor: Visitor, sentence: str = "derain lowlight") -> None:
    visitor.page.fill("#instruction", sentence)
    visitor.page.press("#instruction", "Enter")
    visitor.page.wait_for_selector("#plan-list li")


def result_of(visitor: Visitor) -> np.ndarray:
    """The pixels that the download link gives."""
    with visitor.page.expect_download() as waiting:
        visitor.page.click("#download")
    assert waiting.value.suggested_filename == "street-restored.png"
    with Image.open(waiting.value.path()) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_photo_is_restored_and_compared(visitor: Visitor) -> None:
    page = visitor.page
    give_photo(visitor)
    make_plan(visitor)
    visitor.check_accessibility()
    visitor.restore()
    assert visitor.text("#result-title") == "Restored"
    assert result_of(visitor)[0, 0, 0] == RESTORED
    # The slider uncovers one picture and covers the other.
    stage, divider = page.locator("#canvas"), page.locator(".divider")
    middle = divider.bounding_box()
    page.locator("#split").focus()
    page.keyboard.press("Home")
    assert divider.bounding_box()["x"] < middle["x"]
    assert stage.evaluate("stage => getComputedStyle(stage.children[1]).clipPath").endswith("0%)")
    visitor.check_accessibility()
    # Side by side, both move together.
    page.click("#mode-side")
    page.click("#zoom-in")
    boxes = [page.locator(name).bounding_box() for name in ("#before", "#after")]
    assert boxes[0]["width"] == boxes[1]["width"] > WIDTH / 2
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowLeft")
    moved = [page.locator(name).bounding_box() for name in ("#before", "#after")]
    assert moved[0]["x"] - boxes[0]["x"] == pytest.approx(moved[1]["x"] - boxes[1]["x"], abs=0.1)
    assert moved[0]["x"] > boxes[0]["x"]


def test_plan_has_scores_and_runs_as_it_was_edited(visitor: Visitor) -> None:
    page = visitor.page
    give_photo(visitor)
    make_plan(visitor)
    assert visitor.plan() == ["derain", "lowlight"]
    assert "0.90" in visitor.text("#plan-list li:first-child")
    page.get_by_role("button", name="Move Do derain down").click()
    assert visitor.plan() == ["lowlight", "derain"]
    page.get_by_role("button", name="Remove Do lowlight").click()
    assert visitor.plan() == ["derain"]
    page.locator("#tasks").get_by_role("button", name="Do lowlight").click()
    page.get_by_role("button", name="Move Do lowlight up").click()
    assert visitor.plan() == ["lowlight", "derain"]
    visitor.check_accessibility()
    visitor.restore()
    assert "Do lowlight, then Do derain" in visitor.text("#facts")


def test_progress_is_seen_and_the_edit_can_be_canceled(visitor: Visitor) -> None:
    page = visitor.page
    give_photo(visitor)
    make_plan(visitor)
    visitor.service.hold()
    page.click("#restore")
    expect(page.locator("#stage")).to_have_text("Do derain (task 1 of 2), step 1 of 2")
    assert float(page.locator("#bar").get_attribute("value") or 0) == 0.25
    assert visitor.text("#live") == "Do derain (task 1 of 2), step 1 of 2"
    expect(page.locator("#after-tag")).to_have_text("Preview")
    assert page.locator("#after").evaluate("image => image.naturalWidth") == 16
    visitor.check_accessibility()
    page.click("#cancel")
    page.wait_for_selector("#alert:not([hidden])")
    assert "Canceled" in visitor.text("#alert")
    visitor.service.let_go()
    visitor.restore()
    assert page.locator("#alert").is_hidden()


def test_only_what_the_brush_touched_is_restored(visitor: Visitor) -> None:
    page = visitor.page
    give_photo(visitor)
    page.click("#brush")
    box = page.locator("#mask").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.25, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.3, y, steps=4)
    page.mouse.up()
    visitor.check_accessibility()
    make_plan(visitor, "lowlight")
    visitor.restore()
    pixels = result_of(visitor)[:, :, 0]
    assert pixels[HEIGHT // 2, 66] == RESTORED
    before = np.where(np.arange(WIDTH) < WIDTH // 2, 60, 90)
    changed = np.argwhere(pixels != before)
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    # A round brush of a tenth of the width, moved over a twentieth of it; a pixel of rounding.
    reach = WIDTH // 20 + 1
    assert HEIGHT // 2 - reach <= top and bottom <= HEIGHT // 2 + reach
    assert WIDTH * 0.25 - reach <= left and right <= WIDTH * 0.3 + reach


@on_a_desk
def test_mask_can_be_painted_with_the_keyboard(visitor: Visitor) -> None:
    page = visitor.page
    give_photo(visitor)
    page.locator("#brush").press("Enter")
    expect(page.locator("#mask")).to_be_focused()
    for key in ("ArrowLeft", "Space"):
        page.keyboard.press(key)
    assert page.locator("#undo").is_enabled()
    page.keyboard.press("u")
    assert page.locator("#undo").is_disabled()
    page.keyboard.press("Escape")
    expect(page.locator("#brush")).to_be_focused()


@on_a_desk
def test_another_seed_is_another_result_and_the_visit_is_remembered(visitor: Visitor) -> None:
    page = visitor.page
    give_photo(visitor)
    make_plan(visitor, "lowlight")
    page.locator(".options summary").click()
    page.fill("#seed", "7")
    visitor.restore()
    page.click("#another")
    page.wait_for_selector("#visits li:nth-child(2)")
    seeds = [text.removeprefix("Seed ") for text in page.locator("#visits .seed").all_inner_texts()]
    assert seeds[1] == "7" != seeds[0]
    page.locator("#visits button").nth(1).click()
    assert "Seed\t7" in visitor.text("#facts") or "\n7\n" in visitor.text("#facts")
    assert page.locator("#visits [aria-current]").count() == 1


@on_a_desk
def test_the_place_in_the_queue_is_told(visitor: Visitor) -> None:
    visitor.service.hold()
    for _ in range(6):  # the worker claims four at once
        answer = httpx.post(
            f"{visitor.service.url}/v1/edit",
            files={"image": ("photo.png", photo_file()["buffer"])},
            data={"plugins": "derain"},
            headers={"Prefer": "respond-async"},
            trust_env=False,
        )
        assert answer.status_code == 202
    give_photo(visitor)
    make_plan(visitor, "lowlight")
    visitor.page.click("#restore")
    expect(visitor.page.locator("#stage")).to_contain_text("before this one")
    visitor.service.let_go()
    visitor.page.wait_for_selector("#visits li")


@on_a_desk
def test_a_sentence_that_no_task_fits_is_explained(visitor: Visitor) -> None:
    give_photo(visitor)
    visitor.page.fill("#instruction", "bake a cake")
    visitor.page.click("#make-plan")
    expect(visitor.page.locator("#plan-note")).to_contain_text("No task fits this sentence")
    visitor.restore()
    assert visitor.text("#result-title") == "Nothing was to be done"


@on_a_desk
def test_errors_say_what_to_do(visitor: Visitor) -> None:
    page, alert = visitor.page, visitor.page.locator("#alert")
    page.click("#restore")
    expect(alert).to_contain_text("Choose a photo first")
    page.set_input_files(
        "#file", files=[{"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}]
    )
    expect(alert).to_contain_text("notes.txt cannot be opened as a picture")
    give_photo(visitor)
    make_plan(visitor, "derain break")
    page.click("#restore")
    expect(alert).to_contain_text("the engine broke")
    assert page.locator("#restore").is_visible()


@on_a_desk
def test_a_photo_is_pasted_dropped_or_a_sample(visitor: Visitor) -> None:
    page = visitor.page
    page.locator("#samples button").first.click()
    page.wait_for_selector("#viewer:not([hidden])")
    assert page.input_value("#instruction") == "remove the rain"
    hand_over = """([bytes, kind]) => {
      const files = new DataTransfer();
      files.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
      const options = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", { ...options, clipboardData: files })
        : new DragEvent("drop", { ...options, dataTransfer: files }));
    }"""
    sample = page.get_attribute("#before", "src")
    for kind in ("paste", "drop"):
        page.evaluate(hand_over, [list(photo_file()["buffer"]), kind])
        expect(page.locator("#live")).to_have_text(f"Photo of {WIDTH} by {HEIGHT} pixels.")
        assert page.get_attribute("#before", "src") != sample
        sample = page.get_attribute("#before", "src")


def test_without_a_worker_the_page_says_so(
    browser: Browser, redis_url: str, tmp_path: Path
) -> None:
    with page_service(redis_url, tmp_path, roles=("selector",)) as service:
        visitor = Visitor(browser.new_page(), service)
        visitor.open()
        assert visitor.text("#health") == "Not ready"
        give_photo(visitor)
        make_plan(visitor)
        visitor.page.click("#restore")
        expect(visitor.page.locator("#alert")).to_contain_text("no worker is alive")
        visitor.page.close()


def test_where_keys_are_asked_for_the_page_asks_for_one(
    browser: Browser, redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    key = KeyFile(file).create("visitor", ("edit",))
    with page_service(redis_url, tmp_path / "store", api_keys_file=file) as service:
        visitor = Visitor(browser.new_page(), service)
        visitor.page.goto(service.url)
        visitor.page.fill("#key", key)
        visitor.page.press("#key", "Enter")
        visitor.page.wait_for_selector("#tasks button")
        assert visitor.page.locator("#key-field").is_hidden()
        give_photo(visitor)
        make_plan(visitor)
        visitor.restore()
        assert visitor.text("#result-title") == "Restored"
        visitor.page.close()


def test_every_file_of_the_page_has_the_policy(service: PageService) -> None:
    with httpx.Client(base_url=service.url, trust_env=False) as client:
        for path in ("/", "/web/main.js", "/web/theme.css", "/web/samples/rain.jpg"):
            answer = client.get(path)
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        assert client.get("/web/../app.py").status_code == 404
        assert client.get("/web/none.js").status_code == 404
