"""The one registry of optimizers: all of them are in it, and each of its names once."""

from collections import Counter

from tests.examples import BLIND, EXAMPLES, OURS, public


def test_every_public_optimizer_has_an_entry_and_nothing_else() -> None:
    assert {name: example.kind for name, example in EXAMPLES.items()} == public()


def test_each_form_has_a_name_of_its_own() -> None:
    for forms in ("contract", "device", "sharded"):
        names = Counter(
            name
            for example in EXAMPLES.values()
            for name in getattr(example, forms) or (example.name,)
        )
        assert not [name for name, count in names.items() if count > 1], forms


def test_what_an_entry_says_of_its_forms_is_about_forms_it_has() -> None:
    assert set(BLIND) <= set(OURS)
    for example in EXAMPLES.values():
        assert set(example.matrices) <= set(example.device or ())
