"""Every wrong input of wrong_inputs.py gets its sentence, quickly, and nothing is written."""

import os
import time
from pathlib import Path

import pytest
import wrong_inputs
from wrong_inputs import CASES, DOCUMENT


@pytest.fixture(scope="module")
def made(photos, recipe, tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    before = Path.cwd()
    os.chdir(place)
    try:
        wrong_inputs.make_place(photos, recipe)
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def place(made, monkeypatch):
    monkeypatch.chdir(made)
    before = wrong_inputs.listing()
    yield made
    wrong_inputs.remove_all_but(before)
    assert wrong_inputs.listing().keys() == before.keys()


@pytest.mark.parametrize("case", CASES, ids=[f"{case.group}: {case.what}".replace(" ", "-") for case in CASES])
def test_a_wrong_input_gets_its_sentence_in_time_and_nothing_is_written(place, case):
    case.make()
    before, started = wrong_inputs.listing(), time.monotonic()
    code, stderr, stdout = wrong_inputs.tell(case)
    assert time.monotonic() - started < 10
    assert code == case.code, stderr
    told = [line for line in stderr.splitlines() if not line.startswith("warning: ")]
    assert [line.split(": ")[0] for line in told] in (["error", "hint"], ["error"])
    assert case.part in told[0]
    assert "Traceback" not in stderr + stdout
    assert wrong_inputs.listing() == before
    assert wrong_inputs.row(case, stderr) in DOCUMENT.read_text(encoding="utf-8").splitlines()


def test_the_document_has_a_row_for_every_case_and_no_other():
    assert len(CASES) >= 60
    assert len({case.group + case.what for case in CASES}) == len(CASES)
    written = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if " | `cikd " in line]
    assert [line.split(" | ")[0].removeprefix("| ") for line in written] == [case.what for case in CASES]
