"""A selector with random weights: at a threshold below -1 it picks every task, above 1 none."""

import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig

from service.selector.scoring import Scorer, ScoringConfig
from service.selector.text_encoder import TextEncoder

MAPPING = Path(__file__).parent.parent / "plugins_store" / "mapping.yaml"
WORDS = ["[PAD]", "[UNK]", "remove", "the", "rain"]


def write_tiny_selector(store: Path, base: str, labels: tuple[str, ...], threshold: float) -> None:
    """store/<base>/selector and the mapping table."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    bert = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    config = ScoringConfig(labels, width=8, text_width=16, threshold=threshold)
    Scorer(config, TextEncoder(bert, tokenizer)).save(store / base / "selector")
    shutil.copy(MAPPING, store / "mapping.yaml")
