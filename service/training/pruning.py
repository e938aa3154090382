"""A small start for the selector's text encoder: a sentence encoder with fewer word pieces."""

import json
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig

from service.selector.text_encoder import MAX_TOKENS, TextEncoder

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = (
    string.ascii_lowercase
    + string.digits
    + string.punctuation
    + "äöüßéèàáíóúñçâêîôûåøæčšž¿¡€£°’“”–…"
)


def pruned_encoder(
    source: Path, texts: Iterable[str], num_pieces: int, num_layers: int
) -> TextEncoder:
    """The BERT in `source` with the `num_pieces` word pieces that matter most and its first layers.

    Kept: every letter, the pieces that `texts` use, then the commonest of the old vocabulary.
    """
    layout = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    old = layout["model"]["vocab"]
    kept = _kept_pieces(old, Tokenizer.from_file(str(source / "tokenizer.json")), texts, num_pieces)
    layout["model"]["vocab"] = {piece: index for index, piece in enumerate(kept)}
    for token in layout["added_tokens"]:
        token["id"] = kept.index(token["content"])
    _renumber(layout["post_processor"], kept)
    layout["padding"] = layout["truncation"] = None

    config = BertConfig.from_json_file(str(source / "config.json"))
    config.vocab_size, config.num_hidden_layers = len(kept), num_layers
    config.max_position_embeddings, config.pad_token_id = MAX_TOKENS, kept.index("[PAD]")
    encoder = TextEncoder(config, Tokenizer.from_str(json.dumps(layout)))
    rows = torch.tensor([old[piece] for piece in kept])
    encoder.bert.load_state_dict(_cut(load_file(source / "model.safetensors"), encoder, rows))
    return encoder


def _kept_pieces(
    old: dict[str, int], tokenizer: Tokenizer, texts: Iterable[str], num_pieces: int
) -> list[str]:
    tokenizer.no_padding()
    used = Counter(piece for text in texts for piece in tokenizer.encode(text).tokens)
    letters = [piece for letter in LETTERS for piece in (letter, "##" + letter) if piece in old]
    frequent = [piece for piece, count in used.most_common() if count >= 3]
    plain = [piece for piece in old if piece.removeprefix("##").isascii() and "unused" not in piece]
    syllables = [piece for piece in plain if piece.startswith("##") and len(piece) <= 4]
    ordered = dict.fromkeys([*SPECIAL, *letters, *frequent, *syllables, *plain])
    return list(ordered)[:num_pieces]


def _renumber(part: object, kept: list[str]) -> None:
    """Set the ids of [CLS] and [SEP] anew wherever the post-processor keeps them."""
    if isinstance(part, dict):
        if "ids" in part and "tokens" in part:
            part["ids"] = [kept.index(token) for token in part["tokens"]]
        for name in ("sep", "cls"):
            if isinstance(part.get(name), list):
                part[name][1] = kept.index(part[name][0])
        for inner in part.values():
            _renumber(inner, kept)


def _cut(
    weights: dict[str, torch.Tensor], encoder: TextEncoder, rows: torch.Tensor
) -> dict[str, torch.Tensor]:
    wanted = encoder.bert.state_dict()
    cut = {name: value for name, value in weights.items() if name in wanted}
    words, positions = "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"
    cut[words] = cut[words][rows]
    cut[positions] = cut[positions][: wanted[positions].shape[0]]
    return {name: value.float() for name, value in cut.items()}
