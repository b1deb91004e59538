"""The series: closed forms, explicit tensors, other step maps, wrong arguments."""

import pytest
import torch
from torch.func import grad, jacfwd, jvp

from anthology.motion import (
    counter_field,
    counter_terms,
    first_counter_term,
    motion_terms,
    second_counter_term,
)

W = torch.ones(2, dtype=torch.float64)


def smooth_loss(seed: int, d: int = 4):
    """A loss with derivatives of every order, none of them zero."""
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(6, d, generator=g, dtype=torch.float64)
    q = torch.rand(d, generator=g, dtype=torch.float64)
    return lambda w: (A @ w).logsumexp(0) + (q * w.cosh()).sum()


def point(seed: int, d: int = 4):
    g = torch.Generator().manual_seed(100 + seed)
    return torch.randn(d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_three_terms_match_explicit_derivative_tensors(seed):
    gradient, w = grad(smooth_loss(seed)), point(seed)
    g = gradient(w)
    H = jacfwd(gradient)(w)
    T = jacfwd(jacfwd(gradient))(w)
    Tgg = T @ g @ g
    expected = [
        H @ g / 2,
        H @ H @ g / 3 + Tgg / 12,
        H @ H @ H @ g / 4 + H @ Tgg / 12 + T @ (H @ g) @ g / 12,
    ]
    for actual, exact in zip(counter_terms(gradient, w, 3), expected, strict=True):
        assert (actual - exact).abs().max() < 1e-10 * (1 + exact.abs().max())


@pytest.mark.parametrize("seed", range(5))
def test_the_closed_forms_are_the_first_two_terms(seed):
    gradient, w = grad(smooth_loss(seed)), point(seed)
    first, second = counter_terms(gradient, w, 2)
    torch.testing.assert_close(first_counter_term(gradient, w), first)
    torch.testing.assert_close(second_counter_term(gradient, w), second)


def test_the_first_term_is_a_gradient_and_the_second_is_not():
    loss, w = smooth_loss(0), point(0)
    gradient = grad(loss)
    quarter = grad(lambda v: gradient(v).square().sum() / 4)(w)
    torch.testing.assert_close(first_counter_term(gradient, w), quarter)
    J = jacfwd(lambda v: second_counter_term(gradient, v))(w)
    assert (J - J.mT).norm() > 1e-2 * J.norm()


def test_quadratic_terms_are_powers_of_the_hessian_over_their_number():
    B = torch.randn(4, 4, dtype=torch.float64)
    H, w = B @ B.mT / 4, torch.randn(4, dtype=torch.float64)
    power = H @ w
    for k, term in enumerate(counter_terms(lambda v: H @ v, w, 6)):
        power = H @ power
        torch.testing.assert_close(term, power / (k + 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (0,)])
def test_terms_keep_shape_and_type(shape, dtype):
    w = torch.randn(shape, dtype=dtype)
    terms = counter_terms(lambda v: 0.5 * v**3, w, 3)
    assert [t.shape for t in terms] == [w.shape] * 3
    assert all(t.dtype == dtype for t in terms)


def test_a_non_contiguous_point_gives_the_same_terms():
    w = torch.randn(3, 2, dtype=torch.float64).mT
    assert not w.is_contiguous()
    for a, b in zip(
        counter_terms(torch.sin, w, 3),
        counter_terms(torch.sin, w.contiguous(), 3),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_constant_gradient_has_no_counter_terms():
    c = torch.tensor([1.0, -2.0], dtype=torch.float64)
    for term in counter_terms(lambda w: c.clone(), torch.zeros_like(c), 3):
        assert torch.equal(term, torch.zeros_like(c))


def test_float32_is_accurate_to_float32_because_nothing_cancels():
    w = torch.tensor([0.7, -1.1])
    single = counter_terms(torch.sinh, w, 3)
    double = counter_terms(torch.sinh, w.double(), 3)
    for a, b in zip(single, double, strict=True):
        assert a.dtype == torch.float32
        assert ((a - b) / b).abs().max() < 1e-5


def test_a_gradient_with_scalars_inside_keeps_float32():
    terms = counter_terms(lambda w: (0.5 * w[0] * w[1] - 1) * w.flip(0), W.float(), 3)
    assert all(t.dtype == torch.float32 for t in terms)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_accepted_and_kept(dtype):
    terms = counter_terms(lambda w: w**3, torch.ones(2, dtype=dtype), 2)
    assert all(t.dtype == dtype and t.isfinite().all() for t in terms)


def test_the_field_is_the_sum_of_its_terms():
    gradient, w, lr = grad(smooth_loss(1)), point(1), 0.05
    xi = counter_terms(gradient, w, 3)
    expected = -gradient(w) - lr * (xi[0] + lr * xi[1] + lr**2 * xi[2])
    torch.testing.assert_close(counter_field(gradient, w, 4, lr), expected)
    assert torch.equal(counter_field(gradient, w, 1, lr), -gradient(w))


@pytest.mark.parametrize("count", range(1, 6))
def test_the_number_of_gradient_calls_is_the_documented_one(count):
    calls = 0

    def gradient(w):
        nonlocal calls
        calls += 1
        return w**3

    counter_terms(gradient, torch.ones(2, dtype=torch.float64), count)
    assert calls == 2**count


def test_terms_of_any_step_map_start_with_half_its_acceleration():
    def phi(w):
        g = w**3 + w.flip(0)
        return -g / (g.square().sum() + 1).sqrt()

    w = torch.tensor([0.4, -1.2], dtype=torch.float64)
    first, second = motion_terms(phi, w, 2)
    assert torch.equal(first, phi(w))
    torch.testing.assert_close(second, -jvp(phi, (w,), (phi(w),))[1] / 2)


def test_weight_decay_enters_the_first_term_as_the_chapter_says():
    gradient, w, decay = grad(smooth_loss(2)), point(2), 0.3
    first = motion_terms(lambda v: -(gradient(v) + decay * v), w, 2)[1]
    H = jacfwd(gradient)(w) + decay * torch.eye(4, dtype=w.dtype)
    torch.testing.assert_close(-first, H @ (gradient(w) + decay * w) / 2)


def test_a_pure_rotation_step_has_the_terms_of_its_matrix_logarithm():
    K = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    w = torch.tensor([1.0, 2.0], dtype=torch.float64)
    power = w
    for k, term in enumerate(motion_terms(lambda v: K @ v, w, 5)):
        power = K @ power
        torch.testing.assert_close(term, (-1) ** k * power / (k + 1))


def test_the_terms_can_themselves_be_differentiated():
    w = torch.tensor([0.3, 0.9], dtype=torch.float64, requires_grad=True)
    (counter_terms(torch.sinh, w, 1)[0]).sum().backward()
    v = w.detach()
    torch.testing.assert_close(w.grad, (v.cosh() ** 2 + v.sinh() ** 2) / 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_input_gives_non_finite_terms(bad):
    w = torch.tensor([1.0, bad], dtype=torch.float64)
    for term in counter_terms(lambda v: v**3 * v.sum(), w, 2):
        assert not term.isfinite().any()


def test_no_term_is_an_empty_list():
    w = torch.ones(2, dtype=torch.float64)
    assert counter_terms(torch.sin, w, 0) == []
    assert motion_terms(torch.sin, w, 0) == []


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((3.0, W, 1), TypeError, "gradient must be a function of a Tensor, got float"),
        ((torch.sin, [1.0], 1), TypeError, "w must be a Tensor, got list"),
        ((torch.sin, W.long(), 1), TypeError, "real floating point, got torch.int64"),
        ((torch.sin, W + 0j, 1), TypeError, "real floating point, got torch.complex"),
        ((torch.sin, W, 1.0), TypeError, "count must be an int, got float"),
        ((torch.sin, W, True), TypeError, "count must be an int, got bool"),
        ((torch.sin, W, -1), ValueError, "count must be at least 0, got -1"),
        ((lambda w: None, W, 1), TypeError, "gradient must return a Tensor"),
        ((lambda w: w.sum(), W, 1), ValueError, r"shape \(2,\)"),
        ((lambda w: w.float(), W, 1), ValueError, "torch.float64"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, text):
    with pytest.raises(error, match=text):
        counter_terms(*arguments)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_that_is_no_time_is_refused(lr):
    with pytest.raises(ValueError, match="Invalid learning rate"):
        counter_field(torch.sin, W, 1, lr)


def test_a_learning_rate_of_the_wrong_type_is_refused():
    with pytest.raises(TypeError, match="lr must be a float, got str"):
        counter_field(torch.sin, W, 1, "0.1")
    with pytest.raises(ValueError, match="order must be at least 1"):
        counter_field(torch.sin, W, 0, 0.1)
