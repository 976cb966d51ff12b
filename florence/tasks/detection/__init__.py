"""Finding objects: boxes with classes, or boxes of anything that texts then name."""

from florence.tasks.detection.cost import DetectionCost
from florence.tasks.detection.settings import Detection
from florence.tasks.detection.shape import DETECTION, ZERO_SHOT_DETECTION
from florence.tasks.inputs import Column, Inputs, Parameter
from florence.tasks.kind import Kind, ModelTask

IMAGE = Column(name="image", type="image", help="a JPEG, PNG or WebP file")
THRESHOLD = Parameter(
    name="threshold",
    type="number",
    help="lowest score of a box that is answered",
    default=0.3,
)

DETECTOR = ModelTask(
    name=DETECTION,
    help="find the objects that the model was trained to find",
    inputs=Inputs(columns=(IMAGE,), parameters=(THRESHOLD,)),
    predictor="florence.tasks.detection.predict:DetectionPredictor",
    results="florence.tasks.detection.answers:coco_results",
    picture="florence.tasks.detection.answers:picture",
)

ZERO_SHOT_DETECTOR = ModelTask(
    name=ZERO_SHOT_DETECTION,
    help="find objects that words of your choice name",
    inputs=Inputs(
        columns=(
            IMAGE,
            Column(
                name="labels",
                type="texts",
                help="what to find in this image",
                required=False,
            ),
        ),
        parameters=(
            Parameter(
                name="labels",
                type="texts",
                help="what to find, with commas between them",
                default=(),
                required=True,
            ),
            Parameter(
                name="templates",
                type="templates",
                help="sentences with {} for the words; default: those the towers were trained with",
                default=(),
            ),
            Parameter(
                name="threshold",
                type="number",
                help="lowest score of a box that is answered",
                default=0.3,
            ),
        ),
    ),
    predictor="florence.tasks.detection.predict:ZeroShotDetectionPredictor",
    results="florence.tasks.detection.answers:coco_results",
    picture="florence.tasks.detection.answers:picture",
)

KIND = Kind(
    name="detection",
    help="train a detector of objects: dynamic head on the image tower, of given classes or of "
    "anything that texts then name",
    settings=Detection,
    task="florence.tasks.detection.task:DetectionTask",
    cost=DetectionCost(),
    makes=lambda settings: settings.leaves,
    starts_from=lambda settings: settings.starts_from,
    models=(DETECTOR, ZERO_SHOT_DETECTOR),
)
