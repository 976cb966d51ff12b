"""Everything a user can set, as pydantic models. Imports no torch."""

from florence.config.base import Settings
from florence.config.data import Augmentation, CaptionLabel, Loader, Text, TextIdentity
from florence.config.evaluate import Evaluate
from florence.config.evaluations import (
    PROMPT_SETS,
    Baseline,
    Classification,
    EvaluationSettings,
    Metric,
    Retrieval,
    RetrievalFormat,
    ZeroShot,
)
from florence.config.model import (
    PRESETS,
    Activation,
    Architecture,
    Attention,
    Embedding,
    ImageTower,
    ModelConfig,
    TextTower,
    architecture_of,
)
from florence.config.pretrain import (
    Checkpointing,
    Checkpoints,
    EngineKind,
    Loss,
    Optimizer,
    Precision,
    Pretrain,
    Reduction,
)

__all__ = [
    "PRESETS",
    "PROMPT_SETS",
    "Activation",
    "Architecture",
    "Attention",
    "Augmentation",
    "Baseline",
    "CaptionLabel",
    "Checkpointing",
    "Checkpoints",
    "Classification",
    "Embedding",
    "EngineKind",
    "Evaluate",
    "EvaluationSettings",
    "ImageTower",
    "Loader",
    "Loss",
    "Metric",
    "ModelConfig",
    "Optimizer",
    "Precision",
    "Pretrain",
    "Reduction",
    "Retrieval",
    "RetrievalFormat",
    "Settings",
    "Text",
    "TextIdentity",
    "TextTower",
    "ZeroShot",
    "architecture_of",
]
