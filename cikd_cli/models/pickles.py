"""Files of torch.save, read without running anything that is in them."""

import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from cikd_cli.errors import CikdError
from cikd_cli.models.formats import refuse_other_formats

# Settings, dates and numbers that training programs store beside the weights: each becomes an object that does nothing.
_STORED = {
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "typing": "Any",
    "uuid": "UUID",
    "builtins": "bool bytes dict float frozenset int list range slice str tuple",
    "datetime": "date datetime timedelta timezone",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "numpy": "bool_ dtype float16 float32 float64 int32 int64 ndarray uint8",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.dtypes": "BoolDType Float16DType Float32DType Float64DType Int32DType Int64DType StrDType UInt8DType",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode EnumNode FloatNode IntegerNode PathNode StringNode",
    "ml_collections.config_dict.config_dict": "ConfigDict",
    "mmengine.logging.history_buffer": "HistoryBuffer",
    "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
}
_DICTIONARIES = {  # kinds of dict: torch fills none but its own
    "yacs.config": "CfgNode",
    "easydict": "EasyDict",
    "addict.addict": "Dict",
    "mmcv.utils.config": "ConfigDict",
    "mmengine.config.config": "ConfigDict",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "lightning.pytorch.utilities.parsing": "AttributeDict",
    "lightning.fabric.utilities.data": "AttributeDict",
    "lightning_fabric.utilities.data": "AttributeDict",
}


class Inert:
    """Stands in for an object of another program: it keeps its state and does nothing."""

    state: Any = None

    def __new__(cls, *_: object) -> "Inert":
        """Whatever it would have been made from."""
        return object.__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __hash__(self) -> int:
        return id(self)


def read_pickle(path: Path) -> dict[Any, Any]:
    """The dictionary of a file, with its tensors on the CPU, and Inert for what is known to be settings.

    Raises CikdError for another format, naming it, and for a file that needs code to be read.
    """
    refuse_other_formats(path)
    _refuse_compressed(path)
    harmless: list[Any] = [(Inert, f"{module}.{name}") for module, words in _STORED.items() for name in words.split()]
    harmless += [(OrderedDict, f"{module}.{name}") for module, name in _DICTIONARIES.items()]
    harmless += [(lambda *_: OrderedDict(), "collections.defaultdict"), (lambda *_: [], "collections.deque")]
    try:
        with torch.serialization.safe_globals(harmless):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch, zipfile and pickle each have their own
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds more than tensors: {found[1]}" if found else "it is damaged, or holds more than tensors"
        raise CikdError(
            f"{path} cannot be read as plain weights; {reason}.",
            hint="save the state dict alone, as .safetensors or with torch.save(model.state_dict(), …)",
        ) from error
    if not isinstance(loaded, dict):
        kind = "program's object" if isinstance(loaded, Inert) else type(loaded).__name__
        raise CikdError(f"{path} holds a {kind}, not a dictionary of weights.")
    return loaded


def _refuse_compressed(path: Path) -> None:
    """torch.save compresses nothing, so an archive that holds more than its file's size was made to fill memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # no archive, or one that torch refuses too
    if size > path.stat().st_size:
        raise CikdError(f"{path} is compressed: its {path.stat().st_size:,} bytes would become {size:,}.")
