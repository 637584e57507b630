"""The section `split` of a run: training, validation, calibration and test part."""

import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEPRECATED = {"apart_field": "reserved_field", "apart_ids": "reserved_ids"}  # former names of options


class Lists(BaseModel):
    """Ids of the rows of each part; a missing validation or calibration part is drawn from the training part.

    Rows in no list are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    test: tuple[str, ...] = Field(min_length=1)


class SplitConfig(BaseModel):
    """Configuration of the split into training, validation, calibration and test part.

    All four parts are required: the validation part selects the best epoch, and conformal intervals are valid only if
    their calibration part selects nothing. Where a published protocol has three parts, take the calibration part from
    its validation part, so that training and test part keep their sizes.

    The test part is, in this order: the rows of given lists, of an official fold, of one of k folds, or a random
    draw.

    Attributes:
        test_field: column of official folds; the rows of `test_fold` are the test part. With several columns, for
            targets that have their own folds, the rows that are in that fold of any column.
        test_fold: value of that column.
        reserved_field: column of official folds of another target. Its rows of `test_fold`, except test rows, are
            reserved for the training part and not drawn for another part. The drawn parts are then those of a run with
            both columns, and a run that starts from such a network is not validated on rows that it learned.
        reserved_ids: ids of more rows reserved for the training part, such as rows that an earlier run did not have.
        folds: number of parts of equal size, drawn with the run's seed; part `fold` is the test part.
        fold: index from 0.
        lists: ids of each part, or a JSON file of them.
        lists_sha256: digest of that file, filled in when the configuration is read, for the record.
        seeds: `cross-validate` draws this many splits, with consecutive seeds from that of the run; `train` draws the
            first.
        test_fraction: share of all rows, drawn at random.
        validation_fraction: share of the rows outside the test part; selects the best epoch.
        calibration_fraction: share of the same rows; sets the intervals. Default: 5 %, but in small sets as many rows
            as a 95 % interval requires, up to a fifth.
        test_rows, validation_rows, calibration_rows: numbers of rows instead of fractions.
        by: draw single rows, or all rows of a reduced formula or of a chemical system together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_field: str | tuple[str, ...] | None = None
    test_fold: int | str | None = None
    reserved_field: str | None = None
    reserved_ids: tuple[str, ...] = ()
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
    def _rename_deprecated(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        for old in DEPRECATED.keys() & document.keys():
            new = DEPRECATED[old]
            if new in document:
                raise ValueError(f"give {new} alone: {old} is its former name")
            warnings.warn(f"split.{old} is deprecated: write {new}", FutureWarning, stacklevel=2)
            document = {DEPRECATED.get(key, key): value for key, value in document.items()}
        return document

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
        if (self.reserved_field or self.reserved_ids) and self.test_field is None:
            raise ValueError("reserved_field and reserved_ids require test_field")
        ways = [name for name in ("test_field", "folds", "lists", "seeds") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise ValueError(f"give only one of {' and '.join(ways)}")
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold {self.fold} does not exist: folds are numbered from 0, and there are {self.folds}")
        return self

    def record(self) -> dict[str, Any]:
        """Return the options that took effect, without lists of ids."""
        unused = {"lists"} if isinstance(self.lists, Lists) else set()
        if self.test_field or self.folds or self.lists:
            unused |= {"test_fraction", "test_rows"}
        if not self.folds:
            unused.add("fold")
        if not self.reserved_ids:
            unused.add("reserved_ids")
        unused |= {
            f"{part}_fraction" for part in ("test", "validation", "calibration") if getattr(self, f"{part}_rows")
        }
        return self.model_dump(mode="json", exclude=unused, exclude_none=True)
