"""The pytest side: `@pytest.mark.promise(id, ...)` must name known promises; outcomes are kept for the count."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conformance.promises import all_promises

RESULTS = Path(__file__).resolve().parents[2] / ".conformance"


class Recorder:
    """Collects the outcome of every test that names promises."""

    def __init__(self) -> None:
        self._named: dict[str, tuple[str, ...]] = {}
        self._outcomes: dict[str, list[str]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        known = all_promises()
        for item in items:
            ids = tuple(str(each) for mark in item.iter_markers("promise") for each in mark.args)
            if unknown := [each for each in ids if each not in known]:
                raise pytest.UsageError(f"{item.nodeid} names unknown promises: {', '.join(unknown)}")
            if ids:
                self._named[item.nodeid] = ids

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid in self._named and (report.when == "call" or report.outcome != "passed"):
            self._outcomes[report.nodeid].append(report.outcome)

    def pytest_sessionfinish(self) -> None:
        passed = {test: ids for test, ids in self._named.items() if self._outcomes.get(test) == ["passed"]}
        if passed:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{os.getpid()}.json").write_text(json.dumps(passed))
