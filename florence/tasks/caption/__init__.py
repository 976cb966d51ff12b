"""Describing images."""

from florence.tasks.caption.cost import CaptionCost
from florence.tasks.caption.settings import Caption
from florence.tasks.inputs import Column, Inputs, Parameter
from florence.tasks.kind import Kind, ModelTask

CAPTION = ModelTask(
    name="caption",
    help="describe images",
    inputs=Inputs(
        columns=(Column(name="image", type="image", help="a JPEG, PNG or WebP file"),),
        parameters=(
            Parameter(
                name="beams",
                type="integer",
                help="captions that are followed at once, of which the best is taken; 1: greedy",
                default=5,
            ),
            Parameter(
                name="sample",
                type="integer",
                help="captions drawn at random for each image, instead of the best; 0: none",
                default=0,
            ),
            Parameter(
                name="temperature",
                type="number",
                help="with sample: above 1 more, below 1 less varied captions",
                default=1.0,
            ),
            Parameter(name="seed", type="integer", help="with sample: of the draws", default=0),
        ),
    ),
    predictor="florence.tasks.caption.predict:CaptionPredictor",
)

KIND = Kind(
    name="caption",
    help="learn to describe images",
    settings=Caption,
    task="florence.tasks.caption.task:CaptionTask",
    cost=CaptionCost(),
    makes=lambda settings: CAPTION.name,
    starts_from=lambda settings: (
        (CAPTION.name,)
        if settings.self_critical
        else ("vlp", "contrastive", "classification", CAPTION.name)
    ),
    models=(CAPTION,),
)
