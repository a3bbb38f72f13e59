"""The golden-file fixture: what does not match fails and says what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(("name", "text"), [("ir/no_such_file.ir", "x"), ("ir/every_op.ir", "graph @stale {\n}\n")])
def test_missing_and_stale_golden_files_fail_and_instruct(
    name: str, text: str, golden: Callable[[str, str], None], request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--update-golden"):
        pytest.skip("would write the wrong text")
    with pytest.raises(pytest.fail.Exception, match=rf"golden/{name} is (missing|stale).*--update-golden"):
        golden(name, text)
