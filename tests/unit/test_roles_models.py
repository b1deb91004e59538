"""The role of every parameter of fifteen models that people train."""

import re
import warnings
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

from anthology import norms as N
from anthology.norms import metrize
from anthology.optim import Muon, Scion, SteepestDescent
from anthology.optim.parts.matrix.routing import ELEMENTWISE
from tests.role_models import ROLES, lora, loss, transformers

each = pytest.mark.parametrize("build", ROLES, ids=lambda f: f.__name__)
Build = Callable[[], nn.Module]


def expected(name: str, build: Build) -> str:
    hits = [role for glob, role in ROLES[build].items() if fnmatchcase(name, glob)]
    assert hits, f"no glob names {name}"
    return hits[-1]


@each
def test_every_parameter_has_its_role(build: Build) -> None:
    model = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = metrize(model)
    assert [row.name for row in table.rows] == [n for n, _ in model.named_parameters()]
    for row in table.rows:
        assert (row.name, row.role) == (row.name, expected(row.name, build))
        assert row.why
    used = {
        glob
        for glob in ROLES[build]
        if any(fnmatchcase(row.name, glob) for row in table.rows)
    }
    assert used == set(ROLES[build]), "every glob names something"
    assert "other" not in Counter(row.role for row in table.rows)


@each
def test_muon_gets_matrices_only(build: Build) -> None:
    for group in Muon(metrize(build(), include_frozen=True)).param_groups:
        matrices = group["role"] not in ELEMENTWISE and group["params"][0].ndim > 1
        assert (group["rule"] == "muon") == matrices


@each
@pytest.mark.parametrize("kind", [SteepestDescent, Muon, Scion])
def test_they_take_a_step_downhill(build: Build, kind: type) -> None:
    model = build()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    options = {"adamw_lr": 1e-4, "weight_decay": 0.0} if kind is Muon else {}
    if kind is Scion:
        options = {"unconstrained": True, "radius": 1.0}
    optimizer = kind(metrize(model), lr=1e-3, **options)
    first = loss(build.__name__, model)
    first.backward()
    optimizer.step()
    for name, p in model.named_parameters():
        moved = not torch.equal(p, before[name])
        reached = p.requires_grad and p.grad is not None and bool(p.grad.any())
        assert moved == reached, name
    assert loss(build.__name__, model) < first


@each
def test_each_norm_measures_its_parameter_and_is_text(build: Build) -> None:
    for row in metrize(build()).rows:
        norm = N.from_spec(repr(row.norm))
        assert norm == row.norm
        g = torch.randn(row.param.shape, dtype=torch.float64)
        point = g.reshape(-1) if norm.ndim == 1 else g
        t = norm.dualize(point)
        assert (norm.norm(t) - 1).abs().max() < 1e-10
        assert ((t * point).sum() - norm.dual(point).sum()).abs() < 1e-8


def test_bodies_without_a_head_have_none() -> None:
    for kind in ("Llama", "ViT", "Bert", "GPT2"):
        config = {"Llama": "LlamaConfig", "ViT": "ViTConfig"}.get(kind, f"{kind}Config")
        sizes = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "num_key_value_heads": 2,
            "vocab_size": 100,
            "pad_token_id": 0,
            "image_size": 16,
            "patch_size": 4,
        }
        if kind == "GPT2":
            sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 100}
            sizes |= {"bos_token_id": 1, "eos_token_id": 2}
        made = getattr(transformers, config)(**sizes)
        pooled = [] if kind in ("Llama", "GPT2") else [True, False]
        for options in [{"add_pooling_layer": pooling} for pooling in pooled] or [{}]:
            model = getattr(transformers, f"{kind}Model")(made, **options)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                roles = {row.role for row in metrize(model).rows}
            assert "head" not in roles, kind


def test_what_lora_freezes_can_be_had() -> None:
    model = lora()
    table = metrize(model)
    assert {row.role for row in table.rows if row.trainable} == {
        "lora",
        "embedding",
        "head",
    }
    assert len(table.frozen) == sum(not p.requires_grad for p in model.parameters())
    assert "include_frozen=True" in str(table)
    assert not metrize(model, include_frozen=True).frozen


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("llama", "*.o_proj.weight", "*.[qkv]_proj.weight"),
        ("bert", "*.attention.output.dense.weight", "*.self.*.weight"),
        ("t5", "*Attention.o.weight", "*Attention.[qkv].weight"),
        ("vit", "*.o_proj.weight", "*.[qkv]_proj.weight"),
        ("whisper", "*_attn.out_proj.weight", "*_attn.[qkv]_proj.weight"),
        ("gpt2", "*.attn.c_proj.weight", "*.c_attn.weight"),
        ("phi3", "*.o_proj.weight", "*.qkv_proj.weight"),
        ("qwen3", "*.o_proj.weight", "*.[qkv]_proj.weight"),
    ],
)
def test_each_head_on_its_own(name: str, inputs: str, outputs: str) -> None:
    (build,) = (b for b in ROLES if b.__name__ == name)
    for row in metrize(build(), heads=True).rows:
        along = [fnmatchcase(row.name, glob) for glob in (inputs, outputs)]
        said = re.search(r", (\d+) heads$", row.why)
        assert bool(said) == any(along), row.name
        if not said:
            continue
        turned = "in × out" in row.why
        axis = int(along[0] != turned)
        g = torch.randn(row.param.shape, dtype=torch.float64)
        plain = N.Transpose(N.RMSToRMS()) if turned else N.RMSToRMS()
        blocks = g.tensor_split(int(said[1]), axis)
        alone = torch.cat([plain.dualize(block) for block in blocks], axis)
        assert (row.norm.dualize(g) - alone).abs().max() < 1e-10
