"""Clips: naming the action that they show, or finding them by texts."""

from florence.tasks.inputs import Column, Inputs, Parameter
from florence.tasks.kind import Kind, ModelTask
from florence.tasks.video.cost import VideoCost
from florence.tasks.video.settings import Video

_VIDEO = Column(name="video", type="video", help="an mp4, webm, mkv, avi or mov file")

ACTION_RECOGNITION = ModelTask(
    name="actionRecognition",
    help="name the action of videos, among those that the model was trained on",
    inputs=Inputs(
        columns=(_VIDEO,),
        parameters=(
            Parameter(
                name="top",
                type="integer",
                help="how many labels to name, the most probable ones",
                default=5,
            ),
            Parameter(
                name="every",
                type="seconds",
                help="answer for each part of the video of this length too, such as 2s; 0: no",
                default=0.0,
            ),
        ),
    ),
    predictor="florence.tasks.video.predict:ActionPredictor",
)

VIDEO_TEXT = ModelTask(
    name="videoText",
    help="name videos with words of your choice, or embed videos and texts",
    inputs=Inputs(
        columns=(_VIDEO,),
        parameters=(
            Parameter(
                name="labels",
                type="texts",
                help="words to choose from, separated by commas; without them: the embedding",
            ),
            Parameter(
                name="templates",
                type="templates",
                help="sentences with {} for the words; a built-in list or a file. Default: the "
                "words as they are",
            ),
        ),
    ),
    predictor="florence.tasks.video.predict:VideoTextPredictor",
)

KIND = Kind(
    name="video",
    help="train a tower of clips, inflated from an image tower: actions, retrieval",
    settings=Video,
    task="florence.tasks.video.task:video_task",
    cost=VideoCost(),
    makes=lambda settings: settings.leaves,
    starts_from=lambda settings: settings.starts_from,
    models=(ACTION_RECOGNITION, VIDEO_TEXT),
)
