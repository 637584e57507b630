"""How rows are parted into training, validation, calibration and test: the section `split` of a run's YAML."""

from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Lists(BaseModel):
    """Ids of the rows of each part; a part that is not given is drawn from the training part.

    Rows that are in no part are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    test: tuple[str, ...] = Field(min_length=1)


class SplitConfig(BaseModel):
    """How rows are parted into training, validation, calibration and test.

    All four parts are always there: the validation part chooses the best epoch, and intervals are honest only if
    their calibration part chose nothing. Where a published protocol names three parts, take the calibration part from
    its validation part, so that training and test part keep their sizes.

    The test part is, in this order: the rows of given lists, of an official fold, of one of k folds, or drawn at
    random.

    Attributes:
        test_field: column with official folds; the rows of `test_fold` are then the test part. With several
            columns, because targets have folds of their own, the rows that are in that fold of any of them.
        test_fold: value of that column.
        apart_field: column of official folds of another target: its rows of `test_fold` that are not test rows here go
            to the training part and are not drawn for any other. The parts that are drawn are then those of a run with
            both columns, and a run that starts from such a network is not validated on what that network learned.
        apart_ids: likewise rows that an earlier run did not have.
        folds: number of parts of equal size, drawn with the run's seed, of which `fold` is the test part.
        fold: from 0.
        lists: ids of each part, or a JSON file of them.
        lists_sha256: of that file, filled in when the configuration is read, so that the record says which it was.
        seeds: `cross-validate` draws this many splits, with seeds from the run's on; `train` takes the first.
        test_fraction: of all rows, drawn at random.
        validation_fraction: of the rows that are not test; chooses the best epoch.
        calibration_fraction: likewise; sets the intervals. If not given, 5 %, but of small sets as many rows as a 95 %
            interval takes, up to a fifth of them.
        test_rows, validation_rows, calibration_rows: numbers of rows instead of fractions.
        by: draw single rows, or all rows of a reduced formula or of a chemical system together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_field: str | tuple[str, ...] | None = None
    test_fold: int | str | None = None
    apart_field: str | None = None
    apart_ids: tuple[str, ...] = ()
    folds: int | None = Field(default=None, ge=2)
    fold: int = Field(default=0, ge=0)
    lists: Lists | str | None = None
    lists_sha256: str | None = None
    seeds: int | None = Field(default=None, ge=2)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    validation_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    calibration_fraction: float | None = Field(default=None, gt=0, lt=0.5)
    test_rows: int | None = Field(default=None, ge=1)
    validation_rows: int | None = Field(default=None, ge=1)
    calibration_rows: int | None = Field(default=None, ge=1)
    by: Literal["row", "formula", "chemical_system"] = "row"

    @model_validator(mode="before")
    @classmethod
    def _digest_lists(cls, document: Any) -> Any:
        if isinstance(document, dict) and isinstance(path := document.get("lists"), str):
            if document.get("lists_sha256"):
                return document
            try:
                return document | {"lists_sha256": sha256(Path(path).read_bytes()).hexdigest()}
            except OSError as error:
                raise ValueError(f"lists: {path}: {error.strerror or error}") from None
        return document

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.test_field is None) != (self.test_fold is None):
            raise ValueError("give both test_field and test_fold, or neither")
        if (self.apart_field or self.apart_ids) and self.test_field is None:
            raise ValueError("apart_field and apart_ids have no meaning without test_field")
        ways = [name for name in ("test_field", "folds", "lists", "seeds") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"give only one of {' and '.join(ways)}")
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} is not there: folds are numbered from 0, and there are {self.folds}")
        return self

    def record(self) -> dict[str, Any]:
        """What decided, for the record: no option that had no say, no ids."""
        unused = {"lists"} if isinstance(self.lists, Lists) else set()
        if self.test_field or self.folds or self.lists:
            unused |= {"test_fraction", "test_rows"}
        if not self.folds:
            unused.add("fold")
        if not self.apart_ids:
            unused.add("apart_ids")
        unused |= {
            f"{part}_fraction" for part in ("test", "validation", "calibration") if getattr(self, f"{part}_rows")
        }
        return self.model_dump(mode="json", exclude=unused, exclude_none=True)
