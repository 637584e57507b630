"""Tables of the benchmark results are those of the stored figures."""

import pytest

from benchmarks.report import RESULTS, TABLES, rendered


@pytest.mark.parametrize("name", TABLES)
def test_table_is_rendered_from_the_json_file(name: str) -> None:
    text = (RESULTS / f"{name}.md").read_text("utf-8")
    assert rendered(text, name) == text
