"""Contrastive pretraining of an image tower and a text tower (Florence, section 2.2)."""

from florence.tasks.inputs import Column, Inputs, Parameter
from florence.tasks.kind import Kind, ModelTask
from florence.tasks.pretrain.cost import PretrainCost
from florence.tasks.pretrain.settings import Pretrain

CONTRASTIVE = ModelTask(
    name="contrastive",
    help="classify images with words of your choice, or embed them",
    inputs=Inputs(
        columns=(
            Column(name="image", type="image", help="a JPEG, PNG or WebP file"),
            Column(
                name="labels",
                type="texts",
                help="words to choose from for this image",
                required=False,
            ),
        ),
        parameters=(
            Parameter(
                name="labels",
                type="texts",
                help="words to choose from, with commas between them",
                default=(),
                required=True,
            ),
            Parameter(
                name="templates",
                type="templates",
                help="sentences with {} for the words; default: those the model was trained with",
                default=(),
            ),
        ),
    ),
    predictor="florence.tasks.pretrain.predict:ContrastivePredictor",
)

KIND = Kind(
    name="pretrain",
    help="contrastive pretraining of both towers on image-text pairs",
    settings=Pretrain,
    task="florence.tasks.pretrain.task:PretrainTask",
    cost=PretrainCost(),
    makes=lambda settings: CONTRASTIVE.name,
    starts_from=lambda settings: (CONTRASTIVE.name,),
    models=(CONTRASTIVE,),
)
