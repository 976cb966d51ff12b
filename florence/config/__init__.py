"""Everything a user can set, as pydantic models. Imports no torch."""

from florence.config.base import Settings
from florence.config.contrastive import ContrastiveLoss, Reduction
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
    RetrievalLabel,
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
from florence.config.precision import Precision
from florence.config.stage import StageSettings
from florence.config.training import (
    ActivationCheckpointing,
    ChangedSettings,
    CheckpointPolicy,
    EngineKind,
    Optimizer,
    Schedule,
    Training,
)

__all__ = [
    "PRESETS",
    "PROMPT_SETS",
    "Activation",
    "ActivationCheckpointing",
    "Architecture",
    "Attention",
    "Augmentation",
    "Baseline",
    "CaptionLabel",
    "ChangedSettings",
    "CheckpointPolicy",
    "Classification",
    "ContrastiveLoss",
    "Embedding",
    "EngineKind",
    "Evaluate",
    "EvaluationSettings",
    "ImageTower",
    "Loader",
    "Metric",
    "ModelConfig",
    "Optimizer",
    "Precision",
    "Reduction",
    "Retrieval",
    "RetrievalFormat",
    "RetrievalLabel",
    "Schedule",
    "Settings",
    "StageSettings",
    "Text",
    "TextIdentity",
    "TextTower",
    "Training",
    "ZeroShot",
    "architecture_of",
]
