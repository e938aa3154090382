"""Selector training on a tiny text encoder: losses, targets, pruning, resuming, VP."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel

from service.selector.scoring import Scorer, ScoringConfig
from service.training.instructions.corpus import Sample
from service.training.instructions.several import CANONICAL
from service.training.pruning import pruned_encoder
from service.training.train_selector import (
    SelectorLoss,
    SelectorRecipe,
    targets,
    train_selector,
)
from service.training.train_vp import train_visual_head

WORDS = [
    "remove",
    "the",
    "rain",
    "snow",
    "fog",
    "haze",
    "blur",
    "face",
    "old",
    "photo",
    "add",
    "in",
]
TINY = SelectorRecipe(steps=3, batch_size=4, num_pieces=120, num_texts=200, num_layers=1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder of two tiny layers, in the layout of the real one."""
    folder = tmp_path_factory.mktemp("encoder")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(97, 123)]
    pieces = [*special, *WORDS, *letters, *["##" + letter for letter in letters], "雪", "zebra"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=200,
    )
    config.to_json_file(str(folder / "config.json"))
    weights = BertModel(config, add_pooling_layer=False).state_dict()
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture
def trained(source: Path, tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    train_selector(tmp_path / "selector", source, replace(TINY, run_dir=tmp_path / "run"))
    return tmp_path / "selector"


def test_pruning_keeps_the_vectors_of_the_kept_pieces(source: Path) -> None:
    encoder = pruned_encoder(source, ["remove the rain"] * 3, num_pieces=60, num_layers=1)
    layout = json.loads((source / "tokenizer.json").read_text())
    old = layout["model"]["vocab"]
    new = encoder.tokenizer.get_vocab()
    assert len(new) == 60 and {"rain", "remove"} <= set(new) and "雪" not in new
    assert old["rain"] != new["rain"]
    tokens = encoder.tokenizer.encode("remove the rain").tokens
    assert tokens == ["[CLS]", "remove", "the", "rain", "[SEP]"]
    before = load_file(source / "model.safetensors")["embeddings.word_embeddings.weight"]
    after = encoder.bert.get_input_embeddings().weight
    assert torch.equal(after[new["rain"]], before[old["rain"]])


def test_a_saved_selector_scores_as_before(trained: Path) -> None:
    scorer = Scorer.load(trained)
    again = Scorer.load(trained)
    with torch.inference_mode():
        first = scorer.embed(["remove the rain", "add snow"])
        assert torch.equal(first, again.embed(["remove the rain", "add snow"]))
        alone = scorer.embed(["add snow"])[0]
    assert torch.allclose(first[1], alone, atol=1e-5)  # padding changes nothing
    assert torch.allclose(first.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_training_resumes_and_takes_up_new_topics(trained: Path, source: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    config["topics"] = config["topics"][:3]
    (trained / "config.json").write_text(json.dumps(config))
    weights = load_file(trained / "heads.safetensors")
    weights["prototypes"] = weights["prototypes"][: len(CANONICAL) + 3].clone()
    save_file(weights, trained / "heads.safetensors")
    before = Scorer.load(trained).prototypes()["rain"]
    train_selector(trained, source, replace(TINY, run_dir=trained.parent), resume=True)
    after = Scorer.load(trained)
    assert len(after.config.topics) > 3
    assert torch.cosine_similarity(before, after.prototypes()["rain"], dim=0) > 0.9


def test_targets_know_what_is_asked_and_what_is_unknown() -> None:
    config = ScoringConfig(("derain", "snow"), ("crop",), width=4, text_width=4)
    batch = [
        Sample("swap rain for snow", ("derain", "snow"), "swap"),
        Sample("crop it", (), "other", "crop"),
        Sample("remove the rain and crop it", ("derain",), "beside"),
    ]
    wanted, known = targets(batch, config)
    assert wanted.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert known[2].tolist() == [1, 1, 0]


def test_the_loss_falls_as_a_sentence_turns_to_its_tasks() -> None:
    loss_of = SelectorLoss(SelectorRecipe())
    vectors = normalize(torch.eye(3), dim=-1)
    wanted = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    right = normalize(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, -1.0, -1.0]]), dim=-1)
    wrong = right.roll(1, 0)
    known = torch.ones_like(wanted)
    assert loss_of(right, vectors, wanted, known) < 0.3 * loss_of(wrong, vectors, wanted, known)


def test_vp_learns_to_place_the_plugins_features_at_their_labels(trained: Path) -> None:
    names = ("derain", "desnow", "lowlight")
    features = {name: torch.randn(1, 12) + 0.1 * torch.randn(40, 12) for name in names}
    sentences = Scorer.load(trained).embed(["remove the rain"]).detach()
    measured = train_visual_head(trained, features, dict.fromkeys(names, "sha256:1"), steps=150)
    assert measured["accuracy"] > 0.95
    scorer = Scorer.load(trained)
    assert tuple(scorer.config.visual_plugins) == names and scorer.config.visual_width == 12
    tokens = {"derain": features["derain"][:1].expand(5, -1), "rain": torch.randn(5, 12)}
    vectors = scorer.visual_vectors(tokens)
    assert set(vectors) == {"derain"}  # VP has not seen rain: its prototype stays
    assert vectors["derain"] @ scorer.prototypes()["derain"] > 0.5
    assert torch.equal(scorer.embed(["remove the rain"]), sentences)
