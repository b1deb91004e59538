"""The three networks: shapes, seeds, and that they are what they say."""

import pytest
import torch
from torch import nn

from anthology import lab

BUILDERS = {
    "mlp": lambda seed: lab.mlp([64, 16, 10], seed=seed),
    "conv_net": lambda seed: lab.conv_net(channels=(8, 16), seed=seed),
    "transformer": lambda seed: lab.transformer(width=16, depth=1, heads=2, seed=seed),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_seed_decides_and_global_state_stays(build):
    torch.manual_seed(0)
    expected = torch.randn(1)
    torch.manual_seed(0)
    one, two, other = build(1), build(1), build(2)
    assert torch.randn(1).equal(expected)
    a, b, c = (nn.utils.parameters_to_vector(m.parameters()) for m in (one, two, other))
    assert a.equal(b) and not a.equal(c)


def test_shapes():
    x = torch.rand(5, 1, 8, 8)
    assert lab.mlp([64, 32, 10])(x).shape == (5, 10)
    assert lab.conv_net()(x).shape == (5, 10)
    color = lab.conv_net((8, 16, 24), inputs=3, classes=7)(torch.rand(2, 3, 32, 32))
    assert color.shape == (2, 7)
    assert lab.transformer()(torch.zeros(2, 64, dtype=torch.long)).shape == (2, 64, 256)


def test_mlp_can_be_linear_smooth_and_without_bias():
    net = lab.mlp([4, 3], bias=False)
    assert [p.shape for p in net.parameters()] == [(3, 4)]
    smooth = lab.mlp([4, 5, 6, 2], activation=nn.Tanh)
    assert sum(isinstance(m, nn.Tanh) for m in smooth) == 2


def test_conv_net_does_not_mix_the_images_of_a_batch():
    net, x = lab.conv_net(), torch.rand(6, 1, 8, 8)
    alone = torch.cat([net(one[None]) for one in x])
    assert torch.allclose(net(x), alone, atol=1e-5)


def test_transformer_is_causal():
    net = lab.transformer(width=16, depth=2, heads=2)
    tokens = torch.randint(256, (1, 20))
    changed = tokens.clone()
    changed[0, 12] = (changed[0, 12] + 1) % 256
    before, after = net(tokens), net(changed)
    assert torch.allclose(before[:, :12], after[:, :12], atol=1e-6)
    assert not torch.allclose(before[:, 12:], after[:, 12:], atol=1e-4)


def test_transformer_can_tie_its_head():
    tied = lab.transformer(width=16, heads=2, tied=True)
    untied = lab.transformer(width=16, heads=2)
    assert tied.head.weight is tied.token.weight
    sizes = [sum(p.numel() for p in m.parameters()) for m in (tied, untied)]
    assert sizes[1] - sizes[0] == 256 * 16


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: lab.mlp([10]), "input and output"),
        (lambda: lab.conv_net(()), "multiples of 8"),
        (lambda: lab.conv_net((8, 12)), "multiples of 8"),
        (lambda: lab.transformer(width=10, heads=4), "multiple of heads=4"),
    ],
)
def test_wrong_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
