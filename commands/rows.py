"""Table of row counts, printed first by `train` and `cross-validate`."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepergatgnn.training.config.run import TrainingConfig
    from deepergatgnn.training.data.run_data import RunData


def show_rows(config: "TrainingConfig", run_data: "RunData") -> None:
    """Print the row counts of a data set, its warnings, and the reasons for missing intervals."""
    from deepergatgnn.training.data.row_counts import row_counts, table
    from deepergatgnn.training.data.row_warnings import warning_lines, warning_table
    from deepergatgnn.training.data.run_data import interval_sentences

    groups = row_counts(run_data.dataset, run_data.split, config.targets)
    print(table(run_data.dataset.name, groups), file=sys.stderr)
    for line in warning_lines(warning_table(run_data.dataset.warnings)):
        print(line, file=sys.stderr)
    for sentence in interval_sentences(run_data, config.targets):
        print(sentence, file=sys.stderr)


def show_split(run_data: "RunData", name: str | None = None) -> None:
    """Print the sizes of the parts and the formulas that they share; `name` is that of a fold."""
    from deepergatgnn.training.data.splits import split_sentence

    sentence = split_sentence(run_data.split.sizes(), run_data.notes)
    print(f"{name}: {sentence}" if name else sentence, file=sys.stderr, flush=True)
