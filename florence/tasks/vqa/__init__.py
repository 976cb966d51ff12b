"""Answering questions about images."""

from florence.tasks.inputs import Column, Inputs, Parameter
from florence.tasks.kind import Kind, ModelTask
from florence.tasks.vqa.cost import VqaCost
from florence.tasks.vqa.settings import Vqa

VQA = ModelTask(
    name="vqa",
    help="answer questions about images",
    inputs=Inputs(
        columns=(
            Column(name="image", type="image", help="a JPEG, PNG or WebP file"),
            Column(name="question", type="text", help="what is asked about each image"),
        ),
        parameters=(
            Parameter(
                name="top",
                type="integer",
                help="how many answers to name, the most probable ones",
                default=5,
            ),
        ),
    ),
    predictor="florence.tasks.vqa.predict:VqaPredictor",
)

KIND = Kind(
    name="vqa",
    help="learn to answer questions about images",
    settings=Vqa,
    task="florence.tasks.vqa.task:VqaTask",
    cost=VqaCost(),
    makes=lambda settings: VQA.name,
    starts_from=lambda settings: ("vlp", "contrastive", "classification", VQA.name),
    models=(VQA,),
)
