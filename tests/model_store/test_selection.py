"""Some models of a store, as if there were no others."""

import pytest

from deepergatgnn.errors import ModelNotFoundError
from deepergatgnn.model_store import ModelStore, SelectedModels, open_models
from tests.support.fixtures import Make


def chosen(store: ModelStore, *references: str) -> SelectedModels:
    made = SelectedModels(store.root, references)
    made.check()
    return made


def test_only_the_chosen_are_there(store: ModelStore) -> None:
    one = chosen(store, "metal")
    assert one.names() == ["metal"]
    assert (one.versions("metal"), one.production("metal")) == (["1.0.0", "1.1.0"], "1.0.0")
    assert one.preferred("metal") == ["1.0.0"]
    for reference in ("oxide", "oxide@1.0.0"):
        with pytest.raises(ModelNotFoundError, match="'oxide' is not served here: metal"):
            one.folder(reference)
    with pytest.raises(ModelNotFoundError, match="is not a model"):
        one.folder("../oxide")


def test_a_version_answers_by_default_whatever_is_in_production(store: ModelStore, make: Make) -> None:
    pinned = chosen(store, "metal@1.1.0", "oxide")
    assert pinned.names() == ["metal", "oxide"]
    assert (pinned.versions("metal"), pinned.production("metal")) == (["1.1.0"], "1.1.0")
    assert pinned.folder("metal").name == "1.1.0"
    with pytest.raises(ModelNotFoundError, match=r"no version 1\.0\.0"):
        pinned.folder("metal@1.0.0")
    store.publish("metal", "2.0.0", make("metal", "2.0.0"))
    store.promote("metal", "2.0.0")
    assert pinned.production("metal") == "1.1.0"
    several = chosen(store, "metal@1.0.0", "metal@2.0.0", "metal@1.0.0")
    assert (several.versions("metal"), several.production("metal")) == (["1.0.0", "2.0.0"], "2.0.0")
    store.promote("metal", "1.1.0")  # which is none of the chosen
    assert several.production("metal") == "1.0.0"
    assert chosen(store, "metal@1.0.0", "metal").production("metal") == "1.1.0"


@pytest.mark.parametrize("references", [["gold"], ["metal@3.0.0"], ["metal@1.0.0", "metal@3.0.0"], ["metal", "a b"]])
def test_what_is_not_there_is_told_at_once(store: ModelStore, references: list[str]) -> None:
    with pytest.raises(ModelNotFoundError):
        chosen(store, *references)


def test_without_a_choice_all_are_there(store: ModelStore) -> None:
    assert open_models(store.root, ()).names() == ["metal", "oxide"]
    assert open_models(store.root, ["oxide"]).names() == ["oxide"]
