"""Images in: data sets and folders, decoding, views, and batches."""

from cikd_cli.data.batch import Batch
from cikd_cli.data.decode import DecodedSplit, check_readable
from cikd_cli.data.loader import TrainLoader, eval_batches
from cikd_cli.data.order import epoch_order
from cikd_cli.data.sources import NAMED, DataSource, Split, is_named, load_source
from cikd_cli.data.views import ViewLaw, evaluation_view, normalise, uniforms, views

__all__ = [
    "NAMED",
    "Batch",
    "DataSource",
    "DecodedSplit",
    "Split",
    "TrainLoader",
    "ViewLaw",
    "check_readable",
    "epoch_order",
    "eval_batches",
    "evaluation_view",
    "is_named",
    "load_source",
    "normalise",
    "uniforms",
    "views",
]
