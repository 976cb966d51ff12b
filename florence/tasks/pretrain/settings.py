"""The settings of a pretraining stage: contrastive training of both towers (UniCL)."""

from __future__ import annotations

from florence.config import ContrastiveLoss, Text, Training
from florence.config.base import setting, settings_group


class Pretrain(Training):
    """One pretraining stage."""

    exclude_augmented: bool = setting(
        False,
        description="drop the samples whose text is short and would get a template (second "
        "stage of the paper)",
    )
    loss: ContrastiveLoss = settings_group(ContrastiveLoss, description="contrastive loss")
    text: Text = settings_group(Text, description="labels and templates")
