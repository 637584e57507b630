"""The card of a version: Markdown for people, made from the manifest alone."""

from deepergatgnn.elements import element_symbol
from deepergatgnn.manifest import Manifest


def render_card(manifest: Manifest) -> str:
    """Write the card."""
    target, origin, unit = manifest.target, manifest.provenance, manifest.target.unit
    rows = ", ".join(f"{part} {count}" for part, count in origin.rows.items())
    refused = ", ".join(f"{code} {count}" for code, count in origin.refused.items()) or "none"
    split = ", ".join(f"{key} {value}" for key, value in origin.split.items() if value is not None)
    widths = "\n".join(
        f"| {float(level):.0%} | ± {width:.4g} |" for level, width in manifest.calibration.half_widths.items()
    )
    metrics = "\n".join(
        f"| {part} | {values['n']:.0f} | {values['mae']:.4f} | {values['rmse']:.4f} | {values['r2']:.4f} |"
        for part, values in manifest.metrics.items()
    )
    test = manifest.metrics.get("test", {})
    coverage = f"{test['coverage_90']:.1%}" if "coverage_90" in test else "not measured"
    elements = " ".join(element_symbol(number) for number in manifest.domain.elements)
    low, high = manifest.domain.volume_per_atom
    packages = ", ".join(f"{name} {number}" for name, number in origin.packages.items())
    return f"""# {manifest.name} {manifest.version}

{target.description or target.property}: `{target.property}` in {unit}. DeeperGATGNN (Omee et al.,
doi:10.1016/j.patter.2022.100491) with {manifest.network.layers} AGAT layers of {manifest.network.channels} channels
and {manifest.network.heads} heads, {manifest.parameters:,} parameters. Published {manifest.created}.

## Errors

| part | crystals | MAE, {unit} | RMSE, {unit} | R² |
|---|---|---|---|---|
{metrics}

The validation part chose the best epoch; the test part was scored once, for this card.

## Intervals

Split-conformal, one width for all crystals, from {manifest.calibration.n} crystals that neither training nor early
stopping saw. On the test part the 90 % interval covered {coverage}.

| level | half width, {unit} |
|---|---|
{widths}

## Domain

Flagged are crystals with an element outside {elements}; with a volume per atom outside {low:.1f} to {high:.1f} Å³;
or with a crystal vector farther (Mahalanobis) from the training part than 99 % of the calibration part.
{_flagged(test, unit)}

## Data

- data set: {origin.dataset} (sha256 {origin.dataset_sha256})
- source: {origin.source or "not stated"}
- licence: {origin.licence or "not stated"}
- rows: {rows}; refused: {refused}
- split: {split}; seed {origin.seed}

## How it was made

    {origin.command}

{origin.epochs} epochs, best {origin.best_epoch}, {origin.seconds / 60:.1f} minutes on {origin.hardware}; {packages}.
The whole configuration is in the manifest.
"""


def _flagged(test: dict[str, float], unit: str) -> str:
    if not test.get("flagged"):
        return "None of the test part was flagged."
    sentence = f"Of the test part {test['flagged']:.0f} were flagged: MAE {test['mae_flagged']:.4f} {unit}"
    if "mae_unflagged" in test:
        sentence += f", against {test['mae_unflagged']:.4f} for the rest"
    return sentence + "."
