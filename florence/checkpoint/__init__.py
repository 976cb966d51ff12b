"""Training state that survives crashes: saved by a commit protocol, read in any cut."""

from florence.checkpoint.exchange import Exchange, GlooExchange, SingleProcess
from florence.checkpoint.final_model import (
    FinalModel,
    committed_model,
    is_folder_of_files,
    read_final_model,
    write_final_model,
)
from florence.checkpoint.fragment import Fragment, TensorReader, read_whole, share_of
from florence.checkpoint.lineage import SupersededError
from florence.checkpoint.manifest import Commit, CommitId, configuration_digest
from florence.checkpoint.reader import Checkpoint, begin_attempt, newest
from florence.checkpoint.retention import retain
from florence.checkpoint.saves import Saves, State
from florence.checkpoint.writer import CheckpointWriter

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "Commit",
    "CommitId",
    "Exchange",
    "FinalModel",
    "Fragment",
    "GlooExchange",
    "Saves",
    "SingleProcess",
    "State",
    "SupersededError",
    "TensorReader",
    "begin_attempt",
    "committed_model",
    "configuration_digest",
    "is_folder_of_files",
    "newest",
    "read_final_model",
    "read_whole",
    "retain",
    "share_of",
    "write_final_model",
]
