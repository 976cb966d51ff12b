"""Vision-language pretraining: a fusion that knows which image and text belong together."""

from florence.tasks.inputs import Column, Inputs
from florence.tasks.kind import Kind, ModelTask
from florence.tasks.vlp.cost import VlpCost
from florence.tasks.vlp.settings import Vlp

VLP = ModelTask(
    name="vlp",
    help="tell whether an image and a text belong together",
    inputs=Inputs(
        columns=(
            Column(name="image", type="image", help="a JPEG, PNG or WebP file"),
            Column(name="text", type="text", help="what may be said about each image"),
        ),
    ),
    predictor="florence.tasks.vlp.predict:VlpPredictor",
)

KIND = Kind(
    name="vlp",
    help="pretrain a fusion of image and text: image-text matching and masked words",
    settings=Vlp,
    task="florence.tasks.vlp.task:VlpTask",
    cost=VlpCost(),
    makes=lambda settings: VLP.name,
    starts_from=lambda settings: ("contrastive", "classification", VLP.name),
    models=(VLP,),
)
