"""A model as a loss on one vector: values, gradients, what is left alone."""

import copy

import pytest
import torch
from torch import nn
from torch.func import grad
from torch.nn.functional import cross_entropy

from anthology.motion import counter_terms, ravel_model


def small_net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


X = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
Y = torch.tensor([0, 1, 1, 0, 1])


def test_value_and_gradient_are_those_of_the_model():
    model = small_net().double()
    f, w0 = ravel_model(model, lambda net: cross_entropy(net(X), Y))
    loss = cross_entropy(model(X), Y)
    loss.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(f(w0), loss.detach())
    torch.testing.assert_close(grad(f)(w0), expected)


def test_the_model_is_left_as_it_was():
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    f, w0 = ravel_model(model, lambda net: cross_entropy(net(X), Y))
    w0 += 1
    f(w0)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[name])


def test_counter_terms_of_a_network_match_the_gradient_of_its_norm():
    f, w0 = ravel_model(small_net(), lambda net: cross_entropy(net(X), Y))
    first, _ = counter_terms(grad(f), w0, 2)
    quarter = grad(lambda w: grad(f)(w).square().sum() / 4)(w0)
    torch.testing.assert_close(first, quarter)


def test_tied_parameters_appear_once_and_frozen_ones_not_at_all():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    f, w0 = ravel_model(model, lambda net: net(X).square().mean())
    assert w0.shape == (9 + 3,)
    moved = copy.deepcopy(model).double()
    with torch.no_grad():
        moved[0].weight += 0.5
        moved[2].bias += 0.5
    expected = moved(X).square().mean().detach()
    torch.testing.assert_close(f(w0 + 0.5), expected)


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(3), nn.RReLU()])
def test_random_or_stateful_layers_are_refused_until_eval(layer):
    model = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        ravel_model(model, lambda net: net(X).sum())
    f, w0 = ravel_model(model.eval(), lambda net: net(X).sum())
    assert torch.isfinite(f(w0))


@pytest.mark.parametrize(
    "layer",
    [nn.MultiheadAttention(3, 1, dropout=0.5), nn.LSTM(3, 2, 2, dropout=0.5)],
)
def test_dropout_inside_a_layer_is_refused_too(layer):
    with pytest.raises(ValueError, match=f"is a {type(layer).__name__} in training"):
        ravel_model(layer, lambda net: X.sum())
    ravel_model(layer.eval(), lambda net: X.sum())


def test_dropout_that_drops_nothing_is_accepted():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0), nn.LSTM(3, 2))
    f, w0 = ravel_model(model, lambda net: net(X)[0].sum())
    assert torch.equal(f(w0), f(w0))


def test_wrong_arguments_are_named():
    with pytest.raises(TypeError, match="torch.nn.Module, got function"):
        ravel_model(lambda x: x, lambda net: net(X).sum())
    with pytest.raises(TypeError, match="loss must be a function of the model"):
        ravel_model(small_net(), None)
    with pytest.raises(ValueError, match="requires a gradient"):
        ravel_model(small_net().requires_grad_(False), lambda net: net(X).sum())
