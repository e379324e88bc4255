"""A folder of images after every file was looked into: what lies there, which image is which, what is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cikd_cli.data import content
from cikd_cli.data.content import Digests
from cikd_cli.data.decode import check_readable, looked_into, readable
from cikd_cli.data.division import Memory
from cikd_cli.data.folders import Facts, Found, read_folder
from cikd_cli.data.splits import Split
from cikd_cli.errors import CikdError


@dataclass(frozen=True, eq=False)
class Looked:
    """The readable images of a folder.

    parts, digests: "train", and "val" and "test" where they have folders of their own.  by: what tells images apart.
    skipped: unreadable files left out.  looked_into: files that were.  doubts: rows about odd brightness.
    """

    found: Found
    parts: Mapping[str, Split]
    digests: Mapping[str, Digests]
    by: str
    skipped: int
    looked_into: int
    doubts: Facts = ()

    @property
    def every_digest(self) -> Digests:
        """Of all parts."""
        return np.concatenate(list(self.digests.values()))


def look_into(folder: Path, *, labelled: bool, skip_unreadable: bool, memory: Memory | None = None) -> Looked:
    """Read a folder, and look into its files: up to 200,000 whole, of more than that some.

    memory: of runs before; images are told apart as they told them apart, however many there are now.

    Raises:
        CikdError: as `read_folder`; a file that cannot be read, unless they are skipped; a class of such files only.
    """
    found = read_folder(folder, labelled=labelled)
    count = sum(map(len, found.parts.values()))
    parts: dict[str, Split] = {}
    digests: dict[str, Digests] = {}
    checked, doubts = count, []
    whole = count <= content.MOST if memory is None or not len(memory.own) else not memory.by_name
    if whole:
        for name, split in found.parts.items():
            seen = content.look(split)
            kept = readable(len(split), seen.faults, skip_unreadable)
            parts[name], digests[name] = split.take(kept), seen.digests[kept]
            doubts += [(split.items[index], doubt) for index, doubt in seen.doubts.items()]
    else:
        checked = sum(len(looked_into(split, skip_unreadable)) for split in found.parts.values())
        for name, split in found.parts.items():
            parts[name] = check_readable(split, skip_unreadable)
            digests[name] = content.by_name(parts[name], folder)
    lost = np.setdiff1d(found.parts["train"].labels, parts["train"].labels)
    if len(lost):
        what = f"class {found.classes[lost[0]]}" if found.classes else "the data"
        raise CikdError(f"No readable training image of {what} is left.", hint="replace the unreadable files")
    return Looked(
        found,
        parts,
        digests,
        by="content" if whole else "name and size",
        skipped=count - sum(map(len, parts.values())),
        looked_into=checked,
        doubts=_doubtful(doubts),
    )


def _doubtful(doubts: Sequence[tuple[object, str]]) -> Facts:
    if not doubts:
        return ()
    path, doubt = doubts[0]
    several = f" and {len(doubts) - 1:,} more images" if len(doubts) > 1 else ""
    return (("warning", f"{path}{several} may come out dark: {doubt}"),)
