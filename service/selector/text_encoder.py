"""Enc_T of the selector: a small BERT and its tokenizer, read from one folder, offline.

It knows sentences and vectors; nothing of plugins or thresholds.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from service.selector.int8_weights import dequantised, quantised

MAX_TOKENS = 128


class TextEncoder(nn.Module):
    """Mean of the token states of a sentence, as sentence encoders are trained."""

    def __init__(self, config: BertConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.bert = BertModel(config, add_pooling_layer=False)
        self.tokenizer = tokenizer
        self.tokenizer.enable_truncation(min(MAX_TOKENS, config.max_position_embeddings))
        self.tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))

    @property
    def width(self) -> int:
        width: int = self.bert.config.hidden_size
        return width

    def forward(self, texts: Sequence[str]) -> Tensor:
        """texts -> (B, width)"""
        states, mask = self.token_states(texts)
        return (states * mask).sum(1) / mask.sum(1)

    def token_states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, T, width) and mask (B, T, 1) of the tokens, [CLS] and [SEP] included."""
        encoded = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([item.ids for item in encoded])
        mask = torch.tensor([item.attention_mask for item in encoded])
        states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        return states, mask.unsqueeze(-1).to(states.dtype)

    @classmethod
    def load(cls, folder: Path) -> "TextEncoder":
        """The encoder that `save` wrote, or one with fp16 weights; float32 in memory."""
        config = BertConfig.from_json_file(str(folder / "config.json"))
        encoder = cls(config, Tokenizer.from_file(str(folder / "tokenizer.json")))
        weights = load_file(folder / "model.safetensors")
        encoder.bert.load_state_dict(dequantised(weights))
        return encoder.eval()

    def save(self, folder: Path) -> None:
        """Write config, tokenizer and int8 weights."""
        folder.mkdir(parents=True, exist_ok=True)
        self.bert.config.to_json_file(str(folder / "config.json"))
        self.tokenizer.save(str(folder / "tokenizer.json"))
        save_file(quantised(self.bert.state_dict()), folder / "model.safetensors")
