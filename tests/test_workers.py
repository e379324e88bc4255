"""A program that fails ends with its workers, and what fails in one is told."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from cikd_cli.errors import CikdError


def test_a_program_that_fails_between_two_batches_ends(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from cikd_cli.data.decode import DecodedSplit\n"
        "from cikd_cli.data.loader import TrainLoader\n"
        "from cikd_cli.data.splits import Split\n"
        "from cikd_cli.data.views import ViewLaw\n"
        "split = Split(np.zeros((8, 4, 4, 3), dtype=np.uint8), np.zeros(8, dtype=np.int64))\n"
        "loader = TrainLoader(DecodedSplit(split), ViewLaw(4), batch_size=2, seed=0, two_views=False, workers=1)\n"
        "for batch in loader.batches(0, 100):\n"
        "    raise SystemExit(3)\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    ended = subprocess.run(
        [sys.executable, str(script)], timeout=90, check=False, env=os.environ | {"PYTHONPATH": paths}
    )
    assert ended.returncode == 3


def test_the_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(CikdError("What.", hint="how", exit_code=1)))
    assert (error.message, error.hint, error.exit_code) == ("What.", "how", 1)
