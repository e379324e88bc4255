"""The files an analysis leaves, named so that no result takes another one's place.

What a run says of itself (one run, its own teacher, its own images, the test split) is called by its kind alone: `mad`,
`cka`, `eval`, `confusion`. Any other name says in words what it is of, and in hashes: the networks by place and
weights, the images by content. How carefully it was measured (`--images`, `--batch-size`, `--precision`) is in the
file and not in the name: there the newest result replaces the one before, which is said.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from cikd_cli.console import Reporter
from cikd_cli.data.division import TRAIN
from cikd_cli.errors import CikdError
from cikd_cli.files import file_sha256, file_word, read_text, to_json, write_atomically
from cikd_cli.runs.directory import RunDir
from cikd_cli.stages.analysis import Images
from cikd_cli.stages.subjects import Subject, teacher_of
from cikd_cli.training.held_out import remember

MOST_RESULT = 2**28  # bytes; the confusion of 5,000 classes has a tenth of it


def result_stem(kind: str, home: RunDir | None, words: Sequence[str]) -> Path:
    """Where the files of an analysis go, without extension: into the run, else into the working directory."""
    name = "-".join([kind, *filter(None, words)])
    return home.analysis / name if home else Path(name)


def network_words(subjects: Sequence[Subject], home: RunDir | None, *, teacher: Subject | None = None) -> list[str]:
    """What a name says of the networks; nothing of the run `home` alone, or beside the teacher it descends from."""
    compared = [teacher] if teacher and not _is_own(teacher, home) else []
    if len(subjects) == 1 and subjects[0].run is not None and not compared:
        return []
    labels = [*map(_label, subjects), *(f"to-{_label(subject)}" for subject in compared)]
    here = home.path.resolve().parent if home else Path.cwd()
    identities = [*(_identity(subject, here) for subject in subjects), *(["to"] if compared else [])]
    identities += [_identity(subject, here) for subject in compared]
    return [file_word("-".join(labels)), _short(json.dumps(identities).encode())]


def image_words(images: Images) -> list[str]:
    """What a name says of the images; nothing of those that the run they were opened for has."""
    if images.owner is not None and _are_whole(images, images.owner):
        return []
    return [file_word(Path(images.source.name).name), images.source.fingerprint[:8]]


def save_result(stem: Path, result: dict[str, Any], out: Reporter, *, how: Sequence[str] = ()) -> Path:
    """Write stem.json, and say what is replaced if that was measured otherwise; the file.

    how: the keys that say how a result was measured.
    """
    file = stem.with_name(f"{stem.name}.json")
    before = (read_result(file) or {}) if how else {}
    changed = [f"{key.replace('_', ' ')} {before[key]}" for key in how if before.get(key, result[key]) != result[key]]
    if changed:
        out.line(f"{file} replaces a result of {', '.join(changed)}")
    write_atomically(file, (to_json(result, indent=2) + "\n").encode())
    return file


def read_result(file: Path) -> dict[str, Any] | None:
    """A result written by `save_result`; None if there is none that can be read."""
    try:
        known = json.loads(read_text(file, most=MOST_RESULT))
    except (OSError, ValueError, RecursionError):
        return None
    return known if isinstance(known, dict) else None


def _is_own(teacher: Subject, home: RunDir | None) -> bool:
    """Whether a teacher's weights are those that the run learned from."""
    with suppress(CikdError):  # its own is gone
        own = teacher_of(home) if home else None
        return own is not None and own.sha256 == teacher.weights_sha256
    return False


def _are_whole(images: Images, run: RunDir) -> bool:
    """Whether a run's own images lie where it found them, or are all there elsewhere."""
    if images.source.name == run.record.data.name:
        return True
    memory, found = remember([run]), images.source.digests.get(images.split)
    if memory is None or found is None:
        return False
    before = memory.trained if images.split == TRAIN else memory.held[memory.sides == images.split]
    return np.array_equal(np.unique(before), np.unique(found))


def _label(subject: Subject) -> str:
    """A run's name; of another network, its name and the side of its input."""
    return subject.run.path.name if subject.run else f"{Path(subject.label).name}-{subject.spec.image_size}px"


def _identity(subject: Subject, here: Path) -> list[Any]:
    """Place, weights and input size of a network; a path from `here`, so that runs may be moved together."""
    path = subject.run.path if subject.run else Path(subject.name)
    if subject.run is None and not path.is_file():
        return [subject.name, subject.spec.image_size]
    place = os.path.relpath(path.resolve(), here.resolve())
    return [place, subject.weights_sha256 or file_sha256(path), subject.spec.image_size]


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]
