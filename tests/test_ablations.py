import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from skimage import data
from torch.nn.functional import normalize

from service.errors import InvalidRequest
from service.evaluation.ablations.page import write_ablations_page
from service.evaluation.ablations.placement import Place, PlacedSCB, denoise_placed, places
from service.evaluation.ablations.report import draw_variants
from service.evaluation.ablations.run import (
    FULL,
    AblationRecipe,
    baselines,
    results,
    run_ablations,
)
from service.evaluation.ablations.selector_heads import (
    Corpus,
    Heads,
    HeadsRecipe,
    _measure,
    _train,
)
from service.evaluation.ablations.variants import Design, DiffusionVariant, RegressionUNet
from service.models.backbone import Backbone
from service.models.denoiser import denoise
from tests.tiny_base import BASE, write_tiny_base


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    write_tiny_base(store)
    return store


@pytest.fixture(scope="module")
def backbone(store: Path) -> Backbone:
    return Backbone.load(store / BASE)


@pytest.fixture
def recipe(store: Path, tmp_path: Path) -> AblationRecipe:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("coffee.png", "chelsea.png"):
        cv2.imwrite(str(photos / name), cv2.imread(str(Path(data.data_dir) / name)))
    return AblationRecipe(
        photos, photos, store, BASE, tmp_path / "runs", ("derain",), steps=2, batch_size=1,
        size=64, num_photos=2, num_held_out=1, held_out_size=64, regression_widths=(16, 16),
    )  # fmt: skip


@pytest.mark.timeout(600)  # twelve trainings of two steps
def test_every_variant_trains_is_measured_and_is_not_done_twice(
    recipe: AblationRecipe, tmp_path: Path
) -> None:
    left = run_ablations(recipe, max_minutes=1e-9)
    (first,) = recipe.run_dir.glob("*/*/result.json")
    written = first.stat().st_mtime_ns
    assert run_ablations(recipe) == 0
    assert first.stat().st_mtime_ns == written
    rows = results(recipe)["derain"]
    assert len(rows) == left + 1 == 12
    assert {"SCB at E-1", "SCB at E-2", "SCB at D-2", FULL, "ControlNet"} <= rows.keys()
    assert rows["inversion + editing"]["trained_parameters"] == 0
    assert rows["SCB at D-2"]["trained_parameters"] > rows[FULL]["trained_parameters"]
    assert rows["TPB"]["psnr"] != rows["TPB + inversion"]["psnr"]
    with pytest.raises(InvalidRequest, match="other settings"):
        run_ablations(replace(recipe, steps=3))
    report = {
        "recipe": json.loads((recipe.run_dir / "recipe.json").read_text()),
        "num_photos": 1,
        "tasks": {"derain": rows},
        "baselines": {"derain": baselines(recipe, "derain")},
        "selector": {"N = 7": {"single": 0.9, "single + non-existing": 0.8, "multi": 0.7}},
    }
    sections = draw_variants(recipe, recipe.held_out)
    page = tmp_path / "page.html"
    write_ablations_page(page, report, sections)
    text = page.read_text()
    ordered = sorted(("TPB", "SCB", FULL), key=lambda name: -round(rows[name]["psnr"], 2))
    verdict = text.split("By PSNR, best first: ")[1].split(".")[0].split(", ")
    assert [name for name in verdict if name in ordered] == ordered
    assert text.count("data:image/jpeg") == 1
    tiles = [tile.caption for row in sections[0].photos for tile in row]
    assert len(tiles) == 2 + len(rows)
    assert f"TPB + SCB  {rows[FULL]['psnr']:.1f} dB" in tiles, "pictures use the trained weights"


def test_a_placed_branch_changes_nothing_before_it_is_trained(backbone: Backbone) -> None:
    cond, tokens = torch.randn(1, 192, 8, 8), torch.randn(1, 16, 128)
    steps = torch.tensor([50])
    with torch.no_grad():
        expected = denoise(backbone.unet, cond, steps, tokens, (), cond)
        for place in places(backbone.unet):
            added = PlacedSCB(backbone.unet, place)(cond, steps, tokens)
            output = denoise_placed(backbone.unet, cond, steps, tokens, cond, added)
            assert torch.allclose(output, expected, atol=1e-5), place


@pytest.mark.parametrize("place", [Place("E", 1), Place("E", 2), Place("D", 2), Place("D", 1)])
def test_a_placed_branch_reaches_the_output_from_every_place(
    backbone: Backbone, place: Place
) -> None:
    torch.manual_seed(0)
    cond, tokens, steps = torch.randn(1, 192, 8, 8), torch.randn(1, 16, 128), torch.tensor([50])
    branch = PlacedSCB(backbone.unet, place)
    for tap in branch.taps:
        torch.nn.init.normal_(tap.weight, std=0.1)
    with torch.no_grad():
        plain = denoise_placed(backbone.unet, cond, steps, tokens, cond, None)
        output = denoise_placed(
            backbone.unet, cond, steps, tokens, cond, branch(cond, steps, tokens)
        )
    assert (output - plain).abs().max() > 1e-3
    assert sum(p.requires_grad for p in branch.parameters()) == len(list(branch.parameters()))
    assert not any(p.requires_grad for p in backbone.unet.parameters())


def test_inversion_ends_at_the_noise_level_where_sampling_starts(
    store: Path, backbone: Backbone
) -> None:
    """Sampling back from the inverted photo finds it again; from other noise it does not."""
    torch.manual_seed(0)
    model = DiffusionVariant(backbone, store / BASE, "derain", Design("none", inverted=True))
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    noised = DiffusionVariant(backbone, store / BASE, "derain", Design("none"))
    errors = [(m.restore(image, 10) - image).abs().mean() for m in (model, noised)]
    assert errors[0] < errors[1]


def test_a_fresh_regression_net_is_the_identity() -> None:
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.allclose(RegressionUNet((16, 16)).restore(image, 1), image, atol=1e-2)


def test_heads_learn_which_sentence_asks_for_which_plugin() -> None:
    torch.manual_seed(0)
    centres, meanings = torch.randn(3, 8), normalize(torch.randn(4, 12), dim=-1)
    topics = torch.arange(240) % 4  # the fourth asks for nothing
    corpus = Corpus(
        ("a", "b", "c"),
        centres[:, None] + 0.1 * torch.randn(3, 10, 8),
        meanings[topics] + 0.05 * torch.randn(240, 12),
        torch.nn.functional.one_hot(topics, 4)[:, :3].bool(),
        tuple("other" if topic == 3 else "single" for topic in topics.tolist()),
    )
    recipe = HeadsRecipe(steps=200, width=8)
    heads = Heads(corpus, 8, has_visual=True, has_text=True)
    untrained = _measure(heads, corpus.part(0, 120), corpus.part(120, 240))["single"]
    _train(heads.train(), corpus, recipe, 7)
    trained = _measure(heads, corpus.part(0, 120), corpus.part(120, 240))
    assert trained["single"] > 0.9 > untrained
    assert trained["multi"] != trained["multi"], "nothing of that kind was tested"
    for has_visual, has_text in ((False, True), (True, False)):
        _train(Heads(corpus, 8, has_visual, has_text), corpus, HeadsRecipe(steps=2), 3)
