"""Model card of a version: a YAML header for programs and Markdown for people, from the manifest alone."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deepergatgnn.checkpoints.files import IMAGE
from deepergatgnn.checkpoints.manifest import LEVELS, NAME_PATTERN, VERSION_PATTERN, Manifest, StartRecord
from deepergatgnn.element_features import element_symbol
from deepergatgnn.errors import ArtifactError
from deepergatgnn.nn.config import kind_of
from deepergatgnn.training.data.run_data import FEWEST
from deepergatgnn.training.evaluation.metrics import percent
from deepergatgnn.training.publication.figures import CAPTIONS

FENCE = "---\n"
SHARED = "formulas_shared_by_"
WORDS = {
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "coverage_90": "coverage at 90 %",
    "mean_width_90": "mean width at 90 %",
    "accuracy": "accuracy",
    "roc_auc": "ROC AUC",
    "log_loss": "log loss",
    "brier": "Brier score",
}
NAMED_ELEMENTS = 6  # of the best and of the worst
FEW = 10  # crystals below which an error says little of its element
Figures = dict[str, float]


class CardHeader(BaseModel):
    """The header of a card, YAML between two lines of three dashes; errors are in the target's unit.

    Attributes:
        classes: names of the classes; none for a number.
        test, cross_validation: figures of the manifest's metrics of those names, to six digits.
        shared_formulas: reduced formulas that both the training and the test part have; None if not counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(pattern=NAME_PATTERN)
    version: str = Field(pattern=VERSION_PATTERN)
    created: str
    architecture: str
    property: str
    unit: str
    licence: str
    dataset: str
    dataset_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    rows: dict[str, int]
    refused: int = Field(ge=0)
    shared_formulas: int | None = None
    seed: int
    members: int = Field(ge=1)
    parameters: int = Field(ge=1)
    classes: tuple[str, ...] = ()
    test: Figures
    cross_validation: Figures = {}
    seconds: float = Field(ge=0)
    hardware: str
    packages: dict[str, str]


def header_of(manifest: Manifest) -> CardHeader:
    """The header that a manifest's card has."""
    origin = manifest.provenance
    return CardHeader(
        model=manifest.name,
        version=manifest.version,
        created=manifest.created,
        architecture=_architecture(manifest),
        property=manifest.target.property,
        unit=manifest.target.unit,
        licence=origin.licence,
        dataset=origin.dataset,
        dataset_sha256=origin.dataset_sha256,
        rows=origin.rows,
        refused=sum(origin.refused.values()),
        shared_formulas=origin.split.get(f"{SHARED}train_and_test"),
        seed=origin.seed,
        members=manifest.members,
        parameters=manifest.parameters,
        classes=manifest.target.classes,
        test=_rounded(manifest.metrics.get("test", {})),
        cross_validation=_rounded(manifest.metrics.get("cross_validation", {})),
        seconds=origin.seconds,
        hardware=origin.hardware,
        packages=origin.packages,
    )


def read_header(card: str) -> CardHeader:
    """Read and check the header of a card.

    Raises:
        ArtifactError: if it has none, or one that does not fit.
    """
    text, end, _ = card.removeprefix(FENCE).partition(f"\n{FENCE}")
    if not card.startswith(FENCE) or not end:
        raise ArtifactError("the card does not begin with a header between two lines of three dashes")
    try:
        return CardHeader.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise ArtifactError(f"the header of the card does not fit: {error}") from None


def render_card(manifest: Manifest) -> str:
    """Write the card; it shows the images among the manifest's files."""
    header = header_of(manifest).model_dump(mode="json", exclude_defaults=True)
    text = yaml.dump(header, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    classes = manifest.target.classes
    sections = (_title, *((_accuracy, _probabilities) if classes else (_errors, _intervals)), _domain, _data, _making)
    return f"{FENCE}{text}{FENCE}\n" + "\n".join(section(manifest) for section in sections)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines in quotes on one, so that none of their lines ends the header."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _title(manifest: Manifest) -> str:
    target, network = manifest.target, manifest.network
    heads = f"\nand {network.heads} heads" if network.body.has_heads else ""
    attention = f"Predictions have no attention: {reason}. " if (reason := network.attention_reason) else ""
    members = "" if manifest.members == 1 else f" {manifest.members} networks from different seeds, averaged, each"
    return f"""# {manifest.name} {manifest.version}

{target.description or target.property}: `{target.property}` in {target.unit}. {network.title} ({network.body.authors},
{network.body.doi}):{members} with {network.layers} {kind_of(network.body).upper()} layers of {
        network.channels
    } channels{heads}; {manifest.parameters:,} parameters in all. {attention}Published {manifest.created}.
"""


def _architecture(manifest: Manifest) -> str:
    """The parts of the network in a word, "deepergatgnn" for those of that paper."""
    network = manifest.network
    return "deepergatgnn" if network.title == "DeeperGATGNN" else f"{kind_of(network.body)}-{kind_of(network.pooling)}"


def _errors(manifest: Manifest) -> str:
    unit, metrics = manifest.target.unit, manifest.metrics
    parts = {part: metrics[part] for part in ("validation", "test") if part in metrics}
    rows = [
        [part, f"{f['n']:.0f}", _with_error(f, "mae"), f"{f['rmse']:.4f}", _figure(f, "r2"), _figure(f, "mae_over_mad")]
        for part, f in parts.items()
    ]
    text = f"""## Errors

{_table(["part", "crystals", f"MAE, {unit}", f"RMSE, {unit}", "R²", "MAE/MAD"], rows)}

± is the standard error of the mean; MAE/MAD is the MAE over that of a constant. The validation part chose the best
epoch; the test part was scored once, for this card.
"""
    text += _cross_validation(manifest) + _images(manifest, "parity.png", "residuals.png")
    return text + _groups(manifest, "mae", f"MAE, {unit}") + _images(manifest, "elements.png")


def _cross_validation(manifest: Manifest) -> str:
    found = manifest.metrics.get("cross_validation")
    if not found:
        return ""
    known = [name for name in found if f"{name}_std" in found]
    figures = [f"{WORDS.get(name, name)} {found[name]:.4f} ± {found[f'{name}_std']:.4f}" for name in known]
    folds = f" over {found['folds']:.0f} folds" if "folds" in found else ""
    return f"\nCross-validation, mean ± standard deviation{folds}: {', '.join(figures)}.\n"


def _groups(manifest: Manifest, figure: str, head: str, *, most_is_best: bool = False) -> str:
    """A figure by number of inequivalent atoms, and by element."""
    text = ""
    if sizes := _grouped(manifest.metrics.get("test_by_size", {})):
        body = [[name, f"{f['n']:.0f}", f"{f[figure]:.4f}"] for name, f in sizes.items()]
        text += f"\n{_table(['inequivalent atoms', 'crystals', head], body)}\n"
    elements = _grouped(manifest.metrics.get("test_by_element", {}))
    ranked = sorted((f[figure], name, f["n"]) for name, f in elements.items() if f["n"] >= FEW)
    if ranked:
        best, worst = ranked[:NAMED_ELEMENTS], ranked[: -NAMED_ELEMENTS - 1 : -1]
        if most_is_best:
            best, worst = worst, best
        named = [", ".join(f"{name} {each:.4f} ({n:.0f})" for each, name, n in some) for some in (worst, best)]
        title = WORDS[figure][0].upper() + WORDS[figure][1:]
        text += f"\n{title} by element (crystals), of those in at least {FEW} of the test part: worst {named[0]};\n"
        text += f"best {named[1]}.\n"
    return text


def _accuracy(manifest: Manifest) -> str:
    """Quality of the classification."""
    metrics = manifest.metrics
    parts = {part: metrics[part] for part in ("validation", "test") if part in metrics}
    figures = ("accuracy", "roc_auc", "log_loss", "brier")
    rows = [
        [
            part,
            f"{f['n']:.0f}",
            _with_error(f, "accuracy"),
            *(_figure(f, name) for name in figures[1:]),
            _figure(f, "baseline_accuracy"),
            _figure(f, "baseline_log_loss"),
        ]
        for part, f in parts.items()
    ]
    several = len(manifest.target.classes) > 2  # noqa: PLR2004 - else one area says all
    head = ["part", "crystals", *(WORDS[name] for name in figures), "baseline accuracy", "baseline log loss"]
    text = f"""## Accuracy

Classes: {", ".join(f"`{name}`" for name in manifest.target.classes)}.

{_table(head, rows)}

± is the standard error of the mean; the ROC AUC is {
        "the mean over classes, each against the rest" if several else f"that of `{manifest.target.classes[-1]}`"
    }; the baselines are the most frequent class for every crystal, and the shares
of the classes. The validation part chose the best epoch; the test part was scored once, for this card.
"""
    return text + _cross_validation(manifest) + _groups(manifest, "accuracy", "accuracy", most_is_best=True)


def _probabilities(manifest: Manifest) -> str:
    """Calibration of the probabilities, and their reliability on the test part."""
    calibration, classes, test = manifest.calibration, manifest.target.classes, manifest.metrics.get("test", {})
    crystals = f"{calibration.n} crystal{'' if calibration.n == 1 else 's'} that training did not see"
    how = f"calibrated by a temperature of {calibration.temperature or 1:.4g}, fitted to {crystals}"
    if calibration.n < FEWEST:
        how = f"the networks' own: {crystals} are too few to calibrate them, which takes {FEWEST}"
    value = f"that of `{classes[-1]}`" if len(classes) == 2 else "that of the likeliest class"  # noqa: PLR2004
    text = f"""## Probabilities

An answer has the probability of each class; its `value` is {value}, and it has no interval. The
probabilities are {how}.
"""
    if found := _grouped(manifest.metrics.get("test_reliability", {})):
        body = [[name, f"{f['n']:.0f}", f"{f['confidence']:.4f}", f"{f['accuracy']:.4f}"] for name, f in found.items()]
        head = ["probability of the likeliest class", "crystals", "on average", "share that was right"]
        text += f"\n{_table(head, body)}\n"
    if "calibration_error" in test:
        text += f"\nThe expected calibration error on the test part is {test['calibration_error']:.4f}.\n"
    return text


def _intervals(manifest: Manifest) -> str:
    test, unit = manifest.metrics.get("test", {}), manifest.target.unit
    levels = [level for level in map(percent, LEVELS) if f"coverage_{level}" in test]
    body = [[f"{level} %", _share(test[f"coverage_{level}"], test["n"])] for level in levels]
    text = f"## Intervals\n\n{_method(manifest)}"
    if not levels:
        return text if manifest.calibration.shortfall() else f"{text}Their coverage was not measured.\n"
    text += f"\n{_table(['promised', 'covered on the test part'], body)}\n"
    if "mean_width_90" not in test:
        return text
    text += f"\nThe 90 % interval is {test['mean_width_90']:.4g} {unit} wide on average"
    if "width_90_p50" in test:
        low, middle, high = (test[f"width_90_p{part}"] for part in ("05", "50", "95"))
        text += f", {middle:.4g} for the middle crystal; nine in ten are from {low:.4g} to {high:.4g} wide"
    text += f".{_spearman(test, 'width', 'the width')}\n"
    if groups := _grouped(manifest.metrics.get("test_by_width", {})):
        rows = [
            [f"{f['from']:.4g} to {f['to']:.4g}", f"{f['n']:.0f}", f"{f['coverage']:.1%}", f"{f['mae']:.4f}"]
            for f in groups.values()
        ]
        header = [f"quintile of width, {unit}", "crystals", "90 % interval covered", f"MAE, {unit}"]
        text += f"\n{_table(header, rows)}\n"
    return text + _images(manifest, "calibration.png")


def _method(manifest: Manifest) -> str:
    """Method of the intervals, and the levels that are missing."""
    calibration = manifest.calibration
    missing = [
        f"There is no {percent(level)} % interval: {reason}.\n"
        for level in LEVELS
        if (reason := calibration.shortfall(level))
    ]
    if calibration.method == "cv+":
        text = f"""CV+ (doi:10.1214/20-AOS1965), from the residuals of {calibration.n} crystals: too few were left for a
calibration part, so each of the {manifest.members} networks did not learn from a fold of its own. Averaged over data
sets such intervals cover what they say unless the networks are unstable; for any data at all the proof is of 1 - 2α
where they say 1 - α.
"""
    else:
        count = f"{calibration.n} crystals" if calibration.n != 1 else "1 crystal"
        text = f"""Split-conformal, wider for harder crystals, from {count} that neither training nor early
stopping saw.
"""
    return text + "".join(missing)


def _domain(manifest: Manifest) -> str:
    domain, unit, test = manifest.domain, manifest.target.unit, manifest.metrics.get("test", {})
    low, high = domain.volume_per_atom
    sizes = ""
    if domain.inequivalent_atoms is not None:
        sizes = "with a number of inequivalent atoms outside {} to {};\n".format(*domain.inequivalent_atoms)
    flagged = "None of the test part was flagged."
    if test.get("flagged"):
        figure, of_unit = ("accuracy", "") if manifest.target.classes else ("mae", f" {unit}")
        flagged = f"Of the test part {test['flagged']:.0f} were flagged: {WORDS[figure]} "
        flagged += f"{_with_error(test, f'{figure}_flagged')}{of_unit}"
        rest = f"{figure}_unflagged"
        flagged += f", against {_with_error(test, rest)} for the rest." if rest in test else "."
    return f"""## Domain

Flagged are crystals with an element outside {" ".join(element_symbol(number) for number in domain.elements)};
with a volume per atom outside {low:.1f} to {high:.1f} Å³; {sizes}or with a crystal vector farther (Mahalanobis)
from the training part than 99 % of the calibration part.
{flagged}{_spearman(test, "domain", "the domain score")}
{_images(manifest, "crystal-vectors.png")}"""


def _data(manifest: Manifest) -> str:
    origin = manifest.provenance
    sizes = ", ".join(f"{part} {count}" for part, count in origin.rows.items())
    refused = ", ".join(f"{code} {count}" for code, count in origin.refused.items()) or "none"
    known = {key: _plain(value) for key, value in origin.split.items() if value is not None}
    split = ", ".join(f"{key} {value}" for key, value in known.items() if not key.startswith(SHARED))
    pairs = [f"{key.removeprefix(SHARED).replace('_', ' ')} {n}" for key, n in known.items() if key.startswith(SHARED)]
    return f"""## Data

- data set: {origin.dataset} (sha256 {origin.dataset_sha256})
- source: {origin.source or "not stated"}
- licence: {origin.licence or "not stated"}
- rows: {sizes}; refused: {refused}
- split: {split}; seed {origin.seed}
- reduced formulas shared by parts: {", ".join(pairs) or "not counted"}
"""


def _making(manifest: Manifest) -> str:
    origin = manifest.provenance
    seeds = f"seed {origin.seed}"
    if manifest.members > 1:
        seeds = f"seeds {origin.seed} to {origin.seed + manifest.members - 1}"
    packages = ", ".join(f"{name} {number}" for name, number in origin.packages.items())
    return f"""## How it was made

    {origin.command}

{origin.epochs} epochs, best {origin.best_epoch}, {seeds}, {origin.seconds / 60:.1f} minutes on {origin.hardware};
{packages}. The whole configuration is in the manifest.
{_start(origin.start)}{_images(manifest, "learning-curve.png")}"""


def _start(start: StartRecord | None) -> str:
    """Origin of the initial weights, and the rows of the test part among their training data."""
    if start is None:
        return ""
    if start.test_rows is None:
        known = "Whether rows of this test part are among what it learned from is not known: its data were not at hand."
    else:
        known = (
            f"Of this test part it had learned from {start.test_rows} crystals, and from crystals with the reduced "
            f"formulas of {start.test_formulas}."
        )
    return f"\nThe weights began as those of {start.reference} (sha256 {start.sha256}). {known}\n"


def _images(manifest: Manifest, *names: str) -> str:
    shown = [name for name in names if name in manifest.files and IMAGE.fullmatch(name)]
    return "".join(f"\n![{CAPTIONS[name]}]({name})\n" for name in shown)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _grouped(figures: Figures) -> dict[str, Figures]:
    """{"n_Fe": 3, "mae_Fe": 0.1} → {"Fe": {"n": 3, "mae": 0.1}}, in the order of the figures."""
    groups: dict[str, Figures] = {}
    for key, value in figures.items():
        name, _, group = key.rpartition("_")
        groups.setdefault(group, {})[name] = value
    return groups


def _with_error(figures: Figures, name: str) -> str:
    error = f" ± {figures[f'{name}_se']:.4f}" if f"{name}_se" in figures else ""
    return f"{figures[name]:.4f}{error}"


def _share(share: float, count: float) -> str:
    return f"{share:.1%} ± {np.sqrt(share * (1 - share) / count):.1%}"


def _figure(figures: Figures, name: str) -> str:
    return f"{figures[name]:.4f}" if name in figures else "-"


def _spearman(test: Figures, name: str, quantity: str) -> str:
    if (found := test.get(f"spearman_{name}")) is None:
        return ""
    return f" The rank correlation (Spearman) of the absolute error with {quantity} is {found:.2f}."


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _rounded(figures: Figures) -> Figures:
    return {name: float(f"{value:.6g}") for name, value in figures.items()}
