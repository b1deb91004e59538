"""The norm each parameter of a model deserves, by what it does there."""

import re
import warnings
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from anthology.norms.by_hand import Override, overridden
from anthology.norms.heads import Head, find_heads
from anthology.norms.layers import Use
from anthology.norms.metrized import Metrized, Row
from anthology.norms.role_rules import role_of

_LAYERS = (nn.Linear, nn.Embedding, nn.EmbeddingBag, _ConvNd)
_FIRST = {"embedding": 0, "head": 1}


def metrize(
    model: nn.Module,
    overrides: Sequence[Override] | None = None,
    *,
    head: Head = True,
    heads: bool | int = False,
    include_frozen: bool = False,
) -> Metrized:
    """Give every trainable parameter of a model the norm that fits its role.

    ==========  ================================================  ==================
    role        parameters                                        norm
    ==========  ================================================  ==================
    linear      weights of linear layers                          RMSToRMS()
    head        weights of output heads                           RMSToInf()
    embedding   ``nn.Embedding``, ``nn.EmbeddingBag`` weights;    Transpose(OneToRMS())
                positions and class tokens, 1×n×d or so named
                (``pos_embed``, ``cls_token``, ``wte`` …)
    conv        kernels with N spatial axes; each group on its    Conv(N)
                own, transposed ones read the right way round
    depthwise   kernels of one input channel each                 Split(Conv(N), c)
    gain        weights of normalisation layers of any package;   LInf()
                the lengths of weight_norm; a scale for each
                channel, C×1×1 or so named (``gamma`` …)
    qkv         fused projections of attention, by the sizes      Split(RMSToRMS(), 3)
                that the module around them tells
    fused       gate and up in one, Mamba's input projections     Split(RMSToRMS(), k)
    recurrent   weights of RNN, GRU and LSTM, one matrix a gate   Split(RMSToRMS(), k)
    stack       matrices behind one axis or two, that no module   RMSToRMS()
                above owns: (d_out, d_in) for each expert
    lora        both factors of LoRA, input → r and r → output    RMSToRMS()
    entrywise   tables whose entries stand for themselves:        LInf()
                ``A_log``, ``dt_bias``, biases of attention …
    bias        every bias; one bias an expert: each on its own,  RMS()
                the largest counts                                Transpose(OneToRMS())
    other       anything else, by its shape alone: up to one      RMS(), RMSToRMS(),
                axis, two axes, more axes                         Conv(N)
    ==========  ================================================  ==================

    The last column of the table that it gives says why. The norms follow Bernstein &
    Newhouse 2024 (arXiv 2410.21265) and Pethick et al. 2025 (arXiv 2502.07529), those
    of parts the maximum over layers of arXiv 2409.20325, Prop. 7.

    Layers stored in × out are known by their type (``Conv1D`` of GPT-2), by the sizes
    they name (``in_features``) or by a bias along the second axis, and measured
    transposed; of experts only the pair ``gate_up_proj``, ``down_proj`` tells: for
    others say ``("*.experts.*", Transpose(RMSToRMS()))``, or teach it with `role_rule`.
    A stack with four axes is known by "expert" or "moe" in its name, or by more than
    15 entries along each of the last two; kernels of your own, by "conv" in the name
    of their type. A router ``nn.Linear`` (``router``, ``gate``) is "linear", also
    where it comes last. Kernels as one flat matrix are ``(nn.Conv2d, FlatConv(2))``.

    Parameters
    ----------
    model : torch.nn.Module
        Every parameter must have its shape already (run lazy modules once).
    overrides : sequence of (selector, Norm or dict), optional
        A selector is a module type (all parameters such modules own), a glob on the
        parameter's name such as ``"blocks.*.weight"``, or a function ``(name, param,
        module) -> bool``. A norm replaces the norm, of parameters with as many axes; a
        dict may set ``norm``, ``role``, ``scale`` and any option of the optimizer,
        such as ``lr``. Applied in order, later ones win.
    head : bool, str, list of str or None
        True finds the output heads, outside of attention and of repeated blocks: all
        that are tied to an embedding, have an output for each of its tokens, or are
        so called (``lm_head``, ``classifier``, ``score``, ``policy`` …). If there are
        none it is the layer at the end of an ``nn.Sequential``; elsewhere the last
        linear layer, unless a convolution or another matrix follows it: a guess, as
        the table says, with a warning if it looks like a hidden one. Names say which
        modules it is; False and None, that there is none.
    heads : bool or int, optional
        Whether each head of attention is a matrix of its own: rows of ``q_proj`` and
        its like, columns of ``o_proj``. True takes their number from the module around
        them (``num_heads``, ``head_dim`` …), which an integer gives. Default False.
    include_frozen : bool, optional
        Whether parameters without ``requires_grad`` get into the groups, as in
        ``torch.optim``, so that they train once they are unfrozen. Default False.

    Returns
    -------
    Metrized
        Groups in order of first appearance, each trainable parameter in exactly one.
        A tied weight is taken once, as an embedding if it is one.

    Raises
    ------
    ValueError
        If an override changes nothing, ``head`` names no module with a weight matrix,
        ``heads`` finds nothing, or a parameter has no shape yet or has lost it (to FSDP
        or ZeRO: metrize the model first). There is a UserWarning if a hidden layer may
        be taken for the head, or a vocabulary for a matrix.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"metrize needs a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(heads, int) or heads < 0:
        raise TypeError(f"heads must be True, False or a number, got {heads!r}")
    chosen, notes = find_heads(model, head)
    modules = dict(model.named_modules(remove_duplicate=False))
    uses: dict[int, list[Use]] = {}
    for path, module in modules.items():
        for name, p in module.named_parameters(recurse=False):
            use = Use(name, p, module, path, modules, chosen, heads)
            if is_lazy(p):
                raise ValueError(
                    f"{use.full} has no shape yet: run the model once first"
                )
            uses.setdefault(id(p), []).append(use)
    rows = [_row_of(same, include_frozen) for same in uses.values()]
    if heads and not any(re.search(r", \d+ heads", row.why) for row in rows):
        raise ValueError(
            f"heads={heads!r} finds no attention with projections called q_proj, query, "
            "qkv, … that says how many heads it has: give their number, or overrides "
            "with Split(RMSToRMS(), heads)"
        )
    rows = overridden(rows, [*uses.values()], overrides or ())
    notes += _vocabularies(rows)
    if notes:
        warnings.warn("metrize guessed: " + "; ".join(notes), stacklevel=2)
    return Metrized(rows)


def _row_of(uses: Sequence[Use], include_frozen: bool) -> Row:
    """A tied weight keeps its first name and has the role that comes before others."""
    for use in uses:
        _must_be_whole(use)
    roles = [role_of(use) for use in uses]
    role, norm, why = min(roles, key=lambda found: _FIRST.get(found.role, 2))
    name, *others = (use.full for use in uses)
    p = uses[0].param
    trainable = p.requires_grad or include_frozen
    return Row(name, p, role, norm, why=why, shared=tuple(others), trainable=trainable)


def _must_be_whole(use: Use) -> None:
    """Refuse what stands for a weight whose shape is elsewhere."""
    p, module = use.param, use.module
    elsewhere = type(p).__name__ == "FlatParameter" or hasattr(p, "ds_shape")
    flat = isinstance(module, _LAYERS) and use.name == "weight" and p.ndim < 2
    others = (x for x in module.parameters(recurse=False) if x.ndim > 1)
    gone = p.shape == (0,) and not any(x.shape[0] == 0 for x in others)
    if p.requires_grad and (elsewhere or flat or gone):
        raise ValueError(
            f"{use.full} of {use.kind} has shape {tuple(p.shape)}, which is not its "
            "own: FSDP flattened it, ZeRO put it elsewhere, or it is empty. Metrize "
            "the model before it is sharded (fully_shard keeps shapes), or freeze it"
        )


def _vocabularies(rows: Sequence[Row]) -> list[str]:
    """Matrices known by shape only, with a row for each output of a wide head."""
    matrices = [row for row in rows if row.param.ndim == 2]
    sizes = [row.param.shape for row in matrices if row.role in _FIRST]
    outputs = {tall for tall, wide in sizes if tall > wide}
    return [
        f"{row.name!r} is a matrix by its shape alone, but has a row for each entry of "
        "the vocabulary: if it is a table, give it the role 'embedding' and the norm "
        f"Transpose(OneToRMS()), as overrides=[({row.name!r}, {{...}})]"
        for row in matrices
        if row.trainable and row.role == "other" and row.param.shape[0] in outputs
    ]
