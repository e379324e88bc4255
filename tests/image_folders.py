"""Class folders of little photos, and what is read of them."""

from pathlib import Path

from PIL import Image

from cikd_cli.data.sources import load_source
from cikd_cli.data.splits import DataSource, Split


def photo(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value % 256, 7, 9)).save(path)
    return path


def class_folders(root: Path, counts: dict[str, int], *, suffix: str = ".png") -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            photo(root / name / f"{number:03d}{suffix}", number)
    return root


def load(data: str | Path, root: Path | str = "data", **settings: object) -> DataSource:
    return load_source(str(data), data_root=root, download=False, **settings)


def names(split: Split | None) -> list[str]:
    assert split is not None
    return [f"{path.parent.name}/{path.name}" for path in split.items]
