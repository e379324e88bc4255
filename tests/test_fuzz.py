"""A few hundred of the broken files of benchmarks/fuzz.py: each loads or is refused with a sentence."""

import contextlib
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cikd_cli.cli.app import app

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import fuzz


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    def cikd(folder, words):
        with contextlib.chdir(folder):
            outcome = CliRunner().invoke(app, words)
        assert outcome.exit_code == 0, outcome.output

    return fuzz.make_seeds(tmp_path_factory.mktemp("seeds"), cikd)


@pytest.mark.filterwarnings("default")  # the warnings of other packages about broken files are not errors for users
def test_a_broken_file_is_read_or_refused_with_a_sentence_in_little_time_and_memory(seeds, tmp_path):
    memory = fuzz.peak_memory() + 1e9  # this process has other tests behind it
    tallies = fuzz.fuzz(seeds, tmp_path, files=240, seed=0, keep=tmp_path / "failures", memory=memory)
    assert [failure for tally in tallies.values() for failure in tally.failures] == []
    for kind, tally in tallies.items():
        assert tally.outcomes["refused"] > 0, kind
        assert sum(tally.outcomes.values()) == 30


def test_a_loader_that_lets_another_exception_out_is_told(seeds, tmp_path, monkeypatch):
    def careless(path):
        raise KeyError("progress")

    monkeypatch.setattr(fuzz, "load_recipe", careless)
    tallies = fuzz.fuzz(seeds, tmp_path, files=8, seed=0, keep=tmp_path / "failures")
    assert "KeyError" in tallies["recipe"].failures[0]
    assert [path.name for path in (tmp_path / "failures").iterdir()] == ["6-recipe.toml"]
