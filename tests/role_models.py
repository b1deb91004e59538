"""Small models of other packages with random weights, and the roles in each."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
transformers.logging.set_verbosity_error()

_TEXT = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_PLAIN = {"intermediate_size": 32, "num_attention_heads": 2}
_IMAGE = {"image_size": 16, "patch_size": 4}
_TOKENS = {"input_ids": torch.arange(12)[None] % 7 + 3}
_PIXELS = {"pixel_values": torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)}


def _model(kind: str, config: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    made = getattr(transformers, f"{config}Config")(**options)
    found: nn.Module = getattr(transformers, kind)(made)
    return found.eval()


def gpt2() -> nn.Module:
    sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    return _model("GPT2LMHeadModel", "GPT2", vocab_size=100, **sizes, **ends)


def llama() -> nn.Module:
    return _model("LlamaForCausalLM", "Llama", **_TEXT, **_GROUPED)


def qwen3() -> nn.Module:
    return _model("Qwen3ForCausalLM", "Qwen3", **_TEXT, **_GROUPED, head_dim=8)


def mixtral() -> nn.Module:
    return _model(
        "MixtralForCausalLM", "Mixtral", **_TEXT, **_GROUPED, num_local_experts=3
    )


def phi3() -> nn.Module:
    return _model("Phi3ForCausalLM", "Phi3", **_TEXT, **_GROUPED)


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return _model("T5ForConditionalGeneration", "T5", vocab_size=100, **sizes)


def bert() -> nn.Module:
    return _model("BertForMaskedLM", "Bert", **_TEXT, **_PLAIN)


def vit() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, **_PLAIN, **_IMAGE}
    return _model("ViTForImageClassification", "ViT", **sizes, num_labels=5)


def convnext() -> nn.Module:
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    return _model("ConvNextForImageClassification", "ConvNext", **sizes, num_labels=5)


def whisper() -> nn.Module:
    sides = ("encoder", "decoder")
    sizes: dict[str, Any] = {f"{side}_layers": 1 for side in sides}
    sizes |= {f"{side}_attention_heads": 2 for side in sides}
    sizes |= {f"{side}_ffn_dim": 32 for side in sides}
    sizes |= {"max_source_positions": 10, "max_target_positions": 20}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return _model(
        "WhisperForConditionalGeneration",
        "Whisper",
        vocab_size=100,
        d_model=16,
        num_mel_bins=8,
        decoder_start_token_id=1,
        **sizes,
        **ends,
    )


def mamba() -> nn.Module:
    return _model("MambaForCausalLM", "Mamba", **_TEXT, state_size=4)


def mamba2() -> nn.Module:
    sizes = {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 2}
    return _model("Mamba2ForCausalLM", "Mamba2", **_TEXT, **sizes)


def clip() -> nn.Module:
    text = {**_TEXT, **_PLAIN, "max_position_embeddings": 16}
    image = {"hidden_size": 16, "num_hidden_layers": 1, **_PLAIN, **_IMAGE}
    return _model(
        "CLIPModel", "CLIP", text_config=text, vision_config=image, projection_dim=8
    )


def lora() -> nn.Module:
    targets = ["q_proj", "v_proj", "embed_tokens", "lm_head"]
    return peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules=targets))


def dora_gpt2() -> nn.Module:
    config = peft.LoraConfig(
        r=2, target_modules=["c_attn"], use_dora=True, fan_in_fan_out=True
    )
    return peft.get_peft_model(gpt2(), config)


_BATCHES: dict[str, dict[str, torch.Tensor]] = {
    "vit": _PIXELS,
    "convnext": {"pixel_values": torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)},
    "clip": {**_TOKENS, **_PIXELS},
    "t5": {**_TOKENS, "decoder_input_ids": _TOKENS["input_ids"]},
    "whisper": {
        "input_features": torch.linspace(-1, 1, 8 * 20).reshape(1, 8, 20),
        "decoder_input_ids": _TOKENS["input_ids"],
    },
}


def loss(name: str, model: nn.Module) -> torch.Tensor:
    """A number that depends on all of a model's trainable parameters."""
    found = model(**_BATCHES.get(name, _TOKENS))
    total: torch.Tensor = sum(
        getattr(found, key).float().square().mean()
        for key in ("logits", "logits_per_image", "text_embeds", "image_embeds")
        if getattr(found, key, None) is not None
    )
    return total


Table = dict[str, str]
_LLAMA: Table = {
    "*embed_tokens*.weight": "embedding",
    "*self_attn.*_proj*.weight": "linear",
    "*mlp.*_proj.weight": "linear",
    "*norm.weight": "gain",
    "*lm_head*.weight": "head",
}
_BIASES = {"*.bias": "bias"}
# later globs win; every parameter must be named by one
ROLES: dict[Callable[[], nn.Module], Table] = {
    gpt2: {
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "embedding",
        "*.ln_*.weight": "gain",
        "*.c_attn.weight": "qkv",
        "*.c_proj.weight": "linear",
        "*.c_fc.weight": "linear",
        **_BIASES,
    },
    llama: _LLAMA,
    qwen3: {**_LLAMA, "*.q_norm.weight": "gain", "*.k_norm.weight": "gain"},
    mixtral: {
        "*embed_tokens.weight": "embedding",
        "*self_attn.*_proj.weight": "linear",
        "*norm.weight": "gain",
        "lm_head.weight": "head",
        "*.gate.weight": "linear",
        "*.experts.*_proj": "stack",
    },
    phi3: {**_LLAMA, "*.qkv_proj.weight": "qkv", "*.gate_up_proj.weight": "fused"},
    t5: {
        "shared.weight": "embedding",
        "*.relative_attention_bias.weight": "embedding",
        "*Attention.[qkvo].weight": "linear",
        "*.w[io].weight": "linear",
        "*layer_norm.weight": "gain",
    },
    bert: {
        "*_embeddings.weight": "embedding",
        "*.query.weight": "linear",
        "*.key.weight": "linear",
        "*.value.weight": "linear",
        "*.dense.weight": "linear",
        "*.LayerNorm.weight": "gain",
        **_BIASES,
    },
    vit: {
        "*.cls_token": "embedding",
        "*.position_embeddings": "embedding",
        "*.projection.weight": "conv",
        "*_proj.weight": "linear",
        "*.mlp.fc?.weight": "linear",
        "*layernorm*.weight": "gain",
        "classifier.weight": "head",
        **_BIASES,
    },
    convnext: {
        "*.patch_embeddings.weight": "conv",
        "*.downsampling_layer.1.weight": "conv",
        "*.downsampling_layer.0.weight": "gain",
        "*.dwconv.weight": "depthwise",
        "*.pwconv?.weight": "linear",
        "*.layer_scale_parameter": "gain",
        "*layernorm.weight": "gain",
        "classifier.weight": "head",
        **_BIASES,
    },
    whisper: {
        "*.conv?.weight": "conv",
        "*.embed_*.weight": "embedding",
        "*_attn.*.weight": "linear",
        "*.fc?.weight": "linear",
        "*layer_norm.weight": "gain",
        **_BIASES,
    },
    mamba: {
        "*.embeddings.weight": "embedding",
        "*.norm*.weight": "gain",
        "*.A_log": "entrywise",
        "*.D": "entrywise",
        "*.conv1d.weight": "depthwise",
        "*.in_proj.weight": "fused",
        "*.x_proj.weight": "fused",
        "*.dt_proj.weight": "linear",
        "*.out_proj.weight": "linear",
        **_BIASES,
    },
    mamba2: {
        "*.embeddings.weight": "embedding",
        "*.norm*.weight": "gain",
        "*.A_log": "entrywise",
        "*.D": "entrywise",
        "*.dt_bias": "entrywise",
        "*.conv1d.weight": "depthwise",
        "*.in_proj.weight": "fused",
        "*.out_proj.weight": "linear",
        "lm_head.weight": "head",
        **_BIASES,
    },
    clip: {
        "logit_scale": "gain",
        "*.class_embedding": "embedding",
        "*_embedding.weight": "embedding",
        "*.patch_embedding.weight": "conv",
        "*_proj.weight": "linear",
        "*.fc?.weight": "linear",
        "*l*norm*.weight": "gain",
        "*_projection.weight": "linear",
        **_BIASES,
    },
    lora: {
        **_LLAMA,
        "*.lora_[AB].*": "lora",
        "*.lora_embedding_A.*": "embedding",
        "*.lora_embedding_B.*": "lora",
        "*.lm_head.lora_B.*": "head",
    },
    dora_gpt2: {
        "*.wte.weight": "embedding",
        "*.wpe.weight": "embedding",
        "*.ln_*.weight": "gain",
        "*.c_attn*.weight": "qkv",
        "*.c_proj.weight": "linear",
        "*.c_fc.weight": "linear",
        "*.bias": "bias",
        "*.lora_[AB].*": "lora",
        "*.lora_magnitude_vector.*": "gain",
    },
}
