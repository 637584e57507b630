"""The card: Markdown for people under a header for programs, both from the manifest alone."""

import json
import re
from itertools import pairwise

import pytest
import yaml

from deepergatgnn.checkpoints.manifest import Manifest
from deepergatgnn.element_features import element_symbol
from deepergatgnn.errors import ArtifactError
from deepergatgnn.model_store import ModelStore
from deepergatgnn.training.publication.card import FENCE, CardHeader, header_of, read_header, render_card
from deepergatgnn.training.publication.figures import CAPTIONS
from tests.support.fixtures import Published, bundled


def changed(manifest: Manifest, **parts: dict[str, float] | None) -> Manifest:
    """The manifest with other figures; a part that is None is taken out."""
    metrics = {name: figures for name, figures in (manifest.metrics | parts).items() if figures is not None}
    return manifest.model_copy(update={"metrics": metrics})


def said(card: str) -> str:
    """The text with all white space made single, so that no test depends on where lines end."""
    return " ".join(card.split())


def test_the_card_tells_people_what_the_manifest_tells_programs(tiny: Published) -> None:
    card, manifest = (tiny.folder / "card.md").read_text("utf-8"), tiny.manifest
    assert card == render_card(manifest)
    test, origin, domain = manifest.metrics["test"], manifest.provenance, manifest.domain
    by_size, by_width = manifest.metrics["test_by_size"], manifest.metrics["test_by_width"]
    for part in (
        f"# {manifest.name} {manifest.version}",
        "log10(GPa)",
        "de Jong et al.",
        "open data",
        bundled().sha256,
        f"train {origin.rows['train']}, validation {origin.rows['validation']}",
        "refused: none",
        "test_fraction 0.2",
        f"formulas shared by parts: train and test {origin.split['formulas_shared_by_train_and_test']}",
        "seed 0",
        origin.command,
        f"| test | {test['n']:.0f} | {test['mae']:.4f} ± {test['mae_se']:.4f} | {test['rmse']:.4f} |",
        f"| {test['r2']:.4f} | {test['mae_over_mad']:.4f} |",
        *(f"| {level} % | {test[f'coverage_{level}']:.1%} ± " for level in (50, 80, 90, 95)),
        *(f"| {by_width[f'n_{group}']:.0f} | {by_width[f'coverage_{group}']:.1%} |" for group in range(1, 6)),
        f"| 3-4 | {by_size['n_3-4']:.0f} | {by_size['mae_3-4']:.4f} |",
        f"{test['mean_width_90']:.4g} log10(GPa) wide on average, {test['width_90_p50']:.4g} for the middle crystal",
        f"absolute error with the width is {test['spearman_width']:.2f}",
        f"absolute error with the domain score is {test['spearman_domain']:.2f}",
        f"{manifest.parameters:,} parameters",
        " ".join(element_symbol(number) for number in domain.elements),
        "inequivalent atoms outside {} to {}".format(*domain.inequivalent_atoms or ()),
        f"1 epochs, best 1, seed 0, {origin.seconds / 60:.1f} minutes on {origin.hardware}",
        f"torch {origin.packages['torch']}",
    ):
        assert part in said(card), part


def test_the_worst_and_best_elements_are_named_with_their_number_of_crystals(tiny: Published) -> None:
    figures = {"n_Fe": 20.0, "mae_Fe": 0.5, "n_Ni": 10.0, "mae_Ni": 0.25, "n_Au": 9.0, "mae_Au": 9.0}
    card = said(render_card(changed(tiny.manifest, test_by_element=figures)))
    assert "worst Fe 0.5000 (20), Ni 0.2500 (10); best Ni 0.2500 (10), Fe 0.5000 (20)." in card
    assert "Au 9.0000" not in card
    assert "worst" not in render_card(changed(tiny.manifest, test_by_element=None))


def test_errors_of_the_flagged_are_set_against_the_rest(tiny: Published) -> None:
    test = tiny.manifest.metrics["test"]
    flagged = {"flagged": 3.0, "mae_flagged": 0.4321, "mae_flagged_se": 0.1, "mae_unflagged": 0.1234}
    without = {name: value for name, value in test.items() if "flagged" not in name}
    card = said(render_card(changed(tiny.manifest, test=without | flagged)))
    assert "3 were flagged: MAE 0.4321 ± 0.1000 log10(GPa), against 0.1234 for the rest." in card
    assert "None of the test part was flagged" in render_card(changed(tiny.manifest, test=without))


def test_a_cross_validation_is_told_as_mean_and_deviation(tiny: Published) -> None:
    found = {"folds": 5.0, "mae": 0.0654, "mae_std": 0.0021, "rmse": 0.1, "rmse_std": 0.02}
    manifest = changed(tiny.manifest, cross_validation=found)
    assert "over 5 folds: MAE 0.0654 ± 0.0021, RMSE 0.1000 ± 0.0200." in said(render_card(manifest))
    assert read_header(render_card(manifest)).cross_validation == found
    assert "Cross-validation" not in render_card(tiny.manifest)


def test_images_are_shown_if_the_version_has_them_and_no_others(tiny: Published) -> None:
    files = tiny.manifest.files | dict.fromkeys(["parity.png", "elements.png", "stranger.png"], "0" * 64)
    card = render_card(tiny.manifest.model_copy(update={"files": files}))
    assert re.findall(r"!\[(.+)\]\((.+)\)", card) == [(CAPTIONS[name], name) for name in ("parity.png", "elements.png")]


def test_an_ensemble_is_called_one(tiny: Published) -> None:
    card = said(render_card(tiny.manifest.model_copy(update={"members": 3})))
    assert "3 networks from different seeds, averaged" in card
    assert "seeds 0 to 2" in card
    assert "networks from" not in render_card(tiny.manifest)


def test_the_header_is_the_figures_of_the_manifest(tiny: Published) -> None:
    header, manifest = read_header((tiny.folder / "card.md").read_text("utf-8")), tiny.manifest
    assert header == header_of(manifest)
    assert header.test == pytest.approx(manifest.metrics["test"], rel=1e-5)
    assert (header.model, header.version, header.unit) == (manifest.name, manifest.version, "log10(GPa)")
    assert (header.dataset_sha256, header.rows) == (bundled().sha256, manifest.provenance.rows)
    assert header.shared_formulas == manifest.provenance.split["formulas_shared_by_train_and_test"]
    assert header.packages == manifest.provenance.packages


def test_the_shipped_models_have_cards_that_fit() -> None:
    store = ModelStore()
    for name in store.names():
        for version in store.versions(name):
            manifest = store.manifest(f"{name}@{version}")
            assert read_header(render_card(manifest)) == header_of(manifest)


def test_a_version_with_few_figures_has_a_card_that_fits(tiny: Published) -> None:
    """A manifest of the first schema knows few figures: n, the errors, the coverage at 90 %."""
    known = ("n", "mae", "rmse", "r2", "coverage_90", "mean_width_90")
    few = {name: tiny.manifest.metrics["test"][name] for name in known}
    manifest = changed(tiny.manifest, test=few, test_by_element=None, test_by_size=None, test_by_width=None)
    card = render_card(manifest)
    assert read_header(card).test == pytest.approx(few, rel=1e-5)
    assert "± 0.0000" not in card
    assert "not measured" in render_card(changed(manifest, test={k: few[k] for k in ("n", "mae", "rmse", "r2")}))


def test_names_of_people_do_not_break_the_header_or_the_tables(tiny: Published) -> None:
    names = {"unit": "eV|atom: {#} ---", "property": "---\n- x: &y\n---\n"}
    target = tiny.manifest.target.model_copy(update=names)
    card = render_card(tiny.manifest.model_copy(update={"target": target}))
    assert read_header(card).model_dump(include=set(names)) == names
    for first, second in pairwise(line for line in card.splitlines() if line.startswith("| ")):
        if second.startswith("| ---"):
            assert len(re.split(r"(?<!\\)\|", first)) == len(second.split("|"))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "No Name"},
        {"version": "1.0"},
        {"seed": "first"},
        {"test": {"mae": "small"}},
        {"test": {"mae": float("nan")}},
        {"dataset_sha256": "0"},
        {"stranger": 1},
        {"members": None},
    ],
)
def test_a_header_that_does_not_fit_is_refused(tiny: Published, change: dict[str, object]) -> None:
    document = header_of(tiny.manifest).model_dump(mode="json") | change
    with pytest.raises(ArtifactError, match=next(iter(change))):
        read_header(f"{FENCE}{yaml.safe_dump(document)}{FENCE}")


@pytest.mark.parametrize("card", ["", "# model", "---\nmodel: x\n", " ---\n---\n", "---\n[\n---\n", "---\n- 1\n---\n"])
def test_a_card_without_a_header_is_refused(card: str) -> None:
    with pytest.raises(ArtifactError, match=r"header of the card does not fit|does not begin with a header"):
        read_header(card)


def test_the_schema_of_the_header_is_there_for_other_programs(tiny: Published) -> None:
    schema = CardHeader.model_json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= header_of(tiny.manifest).model_dump().keys()
    assert json.dumps(schema)
