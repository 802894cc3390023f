"""`python -m tests.conformance`: how many promises are proven by a test that passed in the last run of script/test,
documented in docs/limits.md, or open. `--open SECTION` lists the open ones of a section."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

from tests.conformance.plugin import RESULTS
from tests.conformance.promises import KINDS, Promise, all_promises

LIMITS = Path(__file__).resolve().parents[2] / "docs" / "limits.md"


def proven() -> set[str]:
    """Ids named by tests that passed."""
    return {each for file in RESULTS.glob("*.json") for ids in json.loads(file.read_text()).values() for each in ids}


def documented() -> set[str]:
    """Ids that docs/limits.md names in backticks, exactly or by a pattern with `*`."""
    patterns = set(re.findall(r"`([a-z-]+\.[a-z-]*[^`\s]*)`", LIMITS.read_text()))
    exact = patterns & set(all_promises())
    wild = [pattern for pattern in patterns if "*" in pattern]
    return exact | {each for each in all_promises() for pattern in wild if fnmatchcase(each, pattern)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.conformance", description=__doc__)
    parser.add_argument("--open", metavar="SECTION", help="list the open promises of a section, as 3.1")
    wanted = parser.parse_args().open
    tested, limited = proven(), documented()

    def state(promise: Promise) -> str:
        return "proven" if promise.id in tested else "documented" if promise.id in limited else "open"

    promises = list(all_promises().values())
    if wanted:
        for promise in promises:
            if promise.section == wanted and state(promise) == "open":
                print(f"{promise.id}: {promise.text}")
        return 0
    print("proven / documented in limits.md / open\n")
    print("section  " + "".join(f"{kind:>18}" for kind in (*KINDS, "all")))
    for section in [*dict.fromkeys(promise.section for promise in promises), "all"]:
        cells = []
        for kind in (*KINDS, "all"):
            count = Counter(
                state(promise)
                for promise in promises
                if section in (promise.section, "all") and kind in (promise.kind, "all")
            )
            cells.append(f"{count['proven']}/{count['documented']}/{count['open']}")
        print(f"{section:9}" + "".join(f"{cell:>18}" for cell in cells))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
