"""Tiny models whose layers keep other things of a text, and how many tokens a model reads."""

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    Qwen3NextConfig,
)

VOCABULARY = 97
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LAYERS = {
    "attention": LlamaConfig(**SMALL),
    "sliding window": Gemma2Config(
        **SMALL, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
    ),
    "convolution": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
    "recurrent": Qwen3NextConfig(
        **SMALL, head_dim=8, layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=0, decoder_sparse_step=1, mlp_only_layers=[0, 1],
    ),
    "positions": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256,
        bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip


def model_of(config, vocabulary=VOCABULARY):
    """An untrained model, always the same."""
    torch.manual_seed(0)
    config = type(config)(**config.to_dict() | {"vocab_size": vocabulary})
    return AutoModelForCausalLM.from_config(config).eval()


class Counted:
    """The shapes of what a model reads, `(rows, tokens)` of each pass, until it is stopped."""

    def __init__(self, model):
        self.passes = []
        self.stop = model.register_forward_pre_hook(self.count, with_kwargs=True).remove

    def count(self, module, args, kwargs):
        ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self.passes.append(tuple(ids.shape))

    @property
    def tokens(self):
        """Rows times columns of all passes."""
        return sum(rows * columns for rows, columns in self.passes)
