"""Adapting a trained model to a data set, or probing what it has learnt."""

from florence.tasks.finetune.cost import FinetuneCost
from florence.tasks.finetune.settings import Finetune
from florence.tasks.inputs import Column, Inputs, Parameter
from florence.tasks.kind import Kind, ModelTask

CLASSIFICATION = ModelTask(
    name="classification",
    help="classify images into the classes that the model was trained on",
    inputs=Inputs(
        columns=(Column(name="image", type="image", help="a JPEG, PNG or WebP file"),),
        parameters=(
            Parameter(
                name="top",
                type="integer",
                help="how many labels to name, the most probable ones",
                default=5,
            ),
        ),
    ),
    predictor="florence.tasks.finetune.predict:ClassificationPredictor",
)

KIND = Kind(
    name="finetune",
    help="adapt a model to a data set, or probe it: contrastive, head, linearProbe, fewShot, "
    "retrieval",
    settings=Finetune,
    run="florence.tasks.finetune.stage:finetune",
    task="florence.tasks.finetune.task:finetune_task",
    cost=FinetuneCost(),
    makes=lambda settings: settings.leaves,
    starts_from=lambda settings: settings.starts_from,
    models=(CLASSIFICATION,),
)
