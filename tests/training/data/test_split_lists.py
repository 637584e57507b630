"""Parts given as lists of ids."""

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from deepergatgnn.errors import ConfigError
from deepergatgnn.training.config.split import SplitConfig
from deepergatgnn.training.data.dataset import Refusal
from deepergatgnn.training.data.splits import (
    describe_split,
    split_rows,
)
from tests.support.bundled_rows import dataset, parts


def given_lists(**changes: list[str]) -> dict[str, list[str]]:
    ids = list(dataset().ids)
    return {"train": ids[:60], "validation": ids[60:70], "calibration": ids[70:80], "test": ids[80:100]} | changes


def listed(lists: Mapping[str, Any]) -> SplitConfig:
    return SplitConfig.model_validate({"lists": lists})


def test_given_lists_are_the_parts_whatever_the_seed_and_the_order() -> None:
    lists = given_lists()
    lists["test"] = lists["test"][::-1]
    split = split_rows(dataset(), listed(lists), seed=7)
    assert parts(split) == [list(range(60)), list(range(60, 70)), list(range(70, 80)), list(range(80, 100))]
    assert describe_split(dataset(), split)["rows_left_out"] == len(dataset()) - 100


def test_parts_that_the_lists_do_not_give_are_drawn_from_the_training_part() -> None:
    lists = given_lists()
    del lists["calibration"]
    config = SplitConfig.model_validate({"lists": lists, "calibration_rows": 12})
    split = split_rows(dataset(), config, seed=0)
    assert split.validation.tolist() == list(range(60, 70))
    assert len(split.calibration) == 12
    assert sorted([*split.train, *split.calibration]) == list(range(60))
    assert parts(split) != parts(split_rows(dataset(), config, seed=1))


def test_lists_may_be_a_file_whose_digest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(given_lists()), "utf-8")
    config = SplitConfig.model_validate({"lists": str(path)})
    assert config.lists_sha256 == sha256(path.read_bytes()).hexdigest()
    assert parts(split_rows(dataset(), config, 0)) == parts(split_rows(dataset(), listed(given_lists()), 0))
    assert SplitConfig.model_validate(config.model_dump(mode="json")) == config
    path.write_text(json.dumps(given_lists(test=list(dataset().ids[80:99]))), "utf-8")
    with pytest.raises(ConfigError, match="has changed"):
        split_rows(dataset(), config, 0)


def test_an_id_that_no_row_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no row 'mp-none'"):
        split_rows(dataset(), listed(given_lists(validation=["mp-none"])), 0)
    many = [f"mp-none-{number}" for number in range(5)]
    with pytest.raises(ConfigError, match="'mp-none-2' and 2 more"):
        split_rows(dataset(), listed(given_lists(validation=many)), 0)


def test_an_id_whose_row_was_refused_is_passed_over() -> None:
    broken = replace(dataset(), refused=(Refusal("mp-broken", "bad_cell", "flat"),))
    lists = given_lists()
    lists["test"] = [*lists["test"], "mp-broken"]
    assert split_rows(broken, listed(lists), 0).sizes()["test"] == 20


def test_an_id_in_two_parts_is_refused() -> None:
    twice = str(dataset().ids[3])
    with pytest.raises(ConfigError, match=f"'{twice}' is in the parts train and test"):
        split_rows(dataset(), listed(given_lists(test=[twice])), 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"train": ["a"]}', "test"),
        ('{"train": ["a"], "test": []}', "test"),
        ('{"train": ["a"], "test": ["b"], "tset": []}', "tset"),
        ("[]", "file"),
    ],
)
def test_a_file_that_holds_no_lists_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "lists.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=rf"lists\.json.*{reason}"):
        split_rows(dataset(), SplitConfig.model_validate({"lists": str(path)}), 0)


def test_the_record_has_the_digest_and_not_the_lists() -> None:
    assert "lists" not in listed(given_lists()).record()
