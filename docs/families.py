"""Small random models of many architectures, built from transformers itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """One architecture: its type in transformers, and what its configuration needs."""

    type: str
    further: dict[str, Any] = field(default_factory=dict)
    says: str = ""
    """What sets it apart from another of its type."""

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.type + (f", {self.says}" if self.says else "")


def built(family: Family) -> PreTrainedModel:
    """A small random model of an architecture, in evaluation mode."""
    torch.manual_seed(0)
    values = {name: value for name, value in (SMALL | family.further).items() if value is not None}
    config = CONFIG_MAPPING[family.type](**values)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


# fmt: off
SMALL = {
    "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 256, "initializer_range": 0.2,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_ctx": 256}
WINDOW = {"sliding_window": 8}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
GEMMA = {"query_pre_attn_scalar": 8}
MOE = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "n_group": 1,
    "topk_group": 1, "decoder_sparse_step": 1,
}
DEEP = MOE | {"first_k_dense_replace": 1, "n_shared_experts": 1}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "num_key_value_heads": 4,
}
DECODER = {
    "d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 48, "decoder_attention_heads": 4,
    "encoder_layers": 1, "encoder_ffn_dim": 48, "encoder_attention_heads": 4, "init_std": 0.2,
    "is_decoder": True, "is_encoder_decoder": False, "add_cross_attention": False,
    "scale_embedding": False,
}
BERT = {"is_decoder": True, "type_vocab_size": 1}
MAMBA = {"state_size": 8, "expand": 2, "conv_kernel": 4, "time_step_rank": 4}
MAMBA2 = {
    "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2,
    "mamba_n_groups": 1, "mamba_chunk_size": 16, "mamba_dt_rank": 4,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}


def rotary(kind: str, **further: Any) -> dict[str, Any]:
    """Scaled rotary positions."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **further}}


LLAMA3 = rotary(
    "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
LONGROPE = {"original_max_position_embeddings": 40} | rotary(
    "longrope", short_factor=[1.0] * 4, long_factor=[4.0, 3.0, 2.5, 2.0],
    original_max_position_embeddings=40,
)

FAMILIES = [
    Family("gpt2", GPT),
    Family("openai-gpt", GPT | {"afn": "gelu"}),
    Family("gpt_bigcode", GPT),
    Family("gpt_neo", {"num_layers": 2, "num_heads": 4, "window_size": 8,
                       "attention_types": [[["global", "local"], 1]]}),
    Family("gpt_neox"),
    Family("gpt_neox_japanese"),
    Family("gptj", GPT | {"rotary_dim": 8}),
    Family("codegen", GPT | {"rotary_dim": 8}),
    Family("ctrl", GPT | {"dff": 48}),
    Family("bloom", {"n_layer": 2, "n_head": 4}),
    Family("mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    Family("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2, "head_dim": None}),
    Family("falcon", {"alibi": True, "head_dim": None}, "ALiBi"),
    Family("opt", {"ffn_dim": 48, "init_std": 0.2, "word_embed_proj_dim": 16}),
    Family("xglm", {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
                    "init_std": 0.2}),
    Family("biogpt"),
    Family("llama"),
    Family("llama", LLAMA3, "llama3 scaling"),
    Family("llama", rotary("dynamic", factor=2.0), "dynamic scaling"),
    Family("llama", LONGROPE, "longrope"),
    Family("llama4_text", MOE | {"intermediate_size_mlp": 48, "attention_chunk_size": 16,
                                 "interleave_moe_layer_step": 1}),
    Family("mistral", WINDOW),
    Family("ministral", WINDOW),
    Family("mixtral", MOE),
    Family("qwen2"),
    Family("qwen2_moe", MOE),
    Family("qwen3"),
    Family("qwen3_moe", MOE),
    Family("qwen3_next", MOE | LINEAR),
    Family("gemma"),
    Family("gemma2", GEMMA | WINDOW),
    Family("gemma3_text", GEMMA | MIXED),
    Family("gemma3n_text", MIXED | {
        "vocab_size_per_layer_input": 2048, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
        "altup_num_inputs": 2, "num_kv_shared_layers": 0, "intermediate_size": [48, 48],
        "activation_sparsity_pattern": [0.0, 0.0]}),
    Family("vaultgemma", GEMMA | WINDOW),
    Family("recurrent_gemma", {"num_hidden_layers": 3, "lru_width": 32, "logits_soft_cap": 3.0,
                               "attention_window_size": 8, "w_init_variance_scale": 0.2}),
    Family("phi"),
    Family("phi3", {"sliding_window": None}),
    Family("phi3", LONGROPE, "longrope"),
    Family("phimoe", MOE),
    Family("stablelm"),
    Family("starcoder2", WINDOW),
    Family("cohere", {"logit_scale": 0.25}),
    Family("cohere2", WINDOW | {"logit_scale": 0.25}),
    Family("granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0}),
    Family("granitemoe", MOE | {"logits_scaling": 4.0}),
    Family("granitemoehybrid", MOE | MAMBA2 | {"layer_types": ["mamba", "attention"],
                                               "shared_intermediate_size": 24}),
    Family("olmo"),
    Family("olmo2"),
    Family("olmo3", MIXED),
    Family("olmoe", MOE),
    Family("smollm3"),
    Family("glm", {"attention_bias": True}),
    Family("glm4", {"attention_bias": True}),
    Family("glm4_moe", DEEP),
    Family("deepseek_v2", DEEP | LATENT),
    Family("deepseek_v3", DEEP | LATENT),
    Family("gpt_oss", MOE | MIXED),
    Family("minicpm3", LATENT | {"dim_model_base": 8}),
    Family("minimax", MOE | {"layer_types": LINEAR["layer_types"], "block_size": 16}),
    Family("dbrx", {
        "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256,
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4}}),
    Family("nemotron"),
    Family("persimmon"),
    Family("apertus"),
    Family("arcee"),
    Family("helium"),
    Family("exaone4", MIXED),
    Family("ernie4_5"),
    Family("hyperclovax", {"logits_scaling": 0.5}),
    Family("nanochat"),
    Family("diffllama"),
    Family("bitnet"),
    Family("jetmoe", MOE | {"kv_channels": 8, "num_key_value_heads": 4}),
    Family("modernbert-decoder", {"local_attention": 16, "global_attn_every_n_layers": 2}),
    Family("lfm2", {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
    Family("mamba", MAMBA),
    Family("mamba2", MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16}),
    Family("falcon_mamba", MAMBA),
    Family("falcon_h1", MAMBA2 | {"mamba_d_ssm": 64, "lm_head_multiplier": 0.5}),
    Family("bamba", MAMBA2 | {"attn_layer_indices": [1]}),
    Family("jamba", MOE | {
        "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2, "mamba_dt_rank": 4,
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "use_mamba_kernels": False}),
    Family("zamba2", MAMBA2 | {
        "n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "mamba"], "adapter_rank": 4,
        "num_mem_blocks": 1, "chunk_size": 16}),
    Family("nemotron_h", MAMBA2 | {
        "hybrid_override_pattern": "M*-", "num_hidden_layers": 3, "mamba_num_heads": 4,
        "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 16}),
    Family("rwkv", {"attention_hidden_size": 32, "context_length": 256}),
    Family("xlstm", {"hidden_size": 64, "embedding_dim": 64, "num_blocks": 2, "num_heads": 4,
                     "qk_dim_factor": 1.0, "chunk_size": 16, "head_dim": None}),
    Family("bart", DECODER),
    Family("mbart", DECODER),
    Family("pegasus", DECODER),
    Family("marian", DECODER),
    Family("blenderbot", DECODER),
    Family("plbart", DECODER),
    Family("trocr", DECODER),
    Family("prophetnet", DECODER | {"num_hidden_layers": None, "num_decoder_layers": 2,
                                    "num_decoder_attention_heads": 4}),
    Family("bert", BERT),
    Family("bert", {"type_vocab_size": 1}, "bidirectional"),
    Family("roberta", BERT),
    Family("electra", BERT | {"embedding_size": 32}),
    Family("roformer", BERT | {"embedding_size": 32}),
    Family("big_bird", BERT | {"attention_type": "original_full"}),
    Family("bert-generation", BERT),
    Family("xlnet", {"max_position_embeddings": None, "d_model": 32, "n_layer": 2, "n_head": 4,
                     "d_inner": 48}),
    Family("xlm", {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "causal": True}),
]
