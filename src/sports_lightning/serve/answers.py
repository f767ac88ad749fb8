"""What the server answers, as JSON: the types are also those of its OpenAPI document."""

from collections.abc import Sequence

from pydantic import BaseModel, Field
from torch import Tensor

from sports_lightning.evaluate.decisions import NONE_OF_THESE, Decisions
from sports_lightning.evaluate.tables import top5_columns


class ClassProbability(BaseModel):
    """A class and its probability."""

    label: str
    probability: float = Field(description="softmax of the calibrated logits, 0 to 1")


class Prediction(BaseModel):
    """The answer for an image."""

    name: str = Field(description="of the file; of an image in JSON, its position from 1")
    prediction: str = Field(description="the most probable class, or `none of these` of a rejected image")
    probability: float = Field(description="of the most probable class")
    top: list[ClassProbability] = Field(description="the five most probable classes, in descending order")
    score: float | None = Field(description="rejection score, 0 to 1: share of known images that look less known")
    rejected: bool = Field(description="whether the score is below `reject`")
    set: list[str] | None = Field(description="classes of the prediction set, the most probable first; with `coverage`")


class Predictions(BaseModel):
    """The answers for the images of a request, in their order."""

    predictions: list[Prediction]


class Neighbour(BaseModel):
    """A training image that the network sees as similar."""

    path: str = Field(description="relative to the training data")
    label: str
    similarity: float = Field(description="cosine of the angle between the features, -1 to 1")
    thumbnail: str = Field(description="data URI of a JPEG; empty if the file can't be read")


class Neighbours(BaseModel):
    """The most similar training images, the most similar first."""

    neighbours: list[Neighbour]


class VideoSegment(BaseModel):
    """A part of a video with one label."""

    start: float = Field(description="in seconds")
    end: float = Field(description="in seconds")
    label: str = Field(description="a class, or `none of these`")
    probability: float = Field(description="mean of the calibrated probability of the class over the frames")
    thumbnail: str = Field(description="data URI of a JPEG of its middle")


class VideoAnswer(BaseModel):
    """What a video shows, and when."""

    name: str
    seconds: float
    segments: list[VideoSegment]


class Problem(BaseModel):
    """Why a request was not answered, on one line."""

    error: str


class Health(BaseModel):
    """Whether the server answers."""

    status: str
    requests: int = Field(description="requests in progress")
    images: int = Field(description="images answered since the start")
    batches: int = Field(description="forward passes for them")


def describe(names: Sequence[str], logits: Tensor, decisions: Decisions, classes: list[str]) -> Predictions:
    """The predictions of n images, with the numbers of `predictions.csv`.

    Args:
        names: of the images.
        logits: (n, classes) float32.
        decisions: on these images.
        classes: their names.
    """
    _, rows = top5_columns(logits.double().softmax(dim=1), classes)
    predictions = []
    for i, (name, (label, probability, *ranked)) in enumerate(zip(names, rows, strict=True)):
        pairs = zip(ranked[::2], ranked[1::2], strict=True)
        rejected = decisions.rejected is not None and bool(decisions.rejected[i])
        predictions.append(
            Prediction(
                name=name,
                prediction=NONE_OF_THESE if rejected else str(label),
                probability=float(probability),
                top=[ClassProbability(label=str(each), probability=float(value)) for each, value in pairs],
                score=None if decisions.scores is None else float(decisions.scores[i]),
                rejected=rejected,
                set=None if decisions.sets is None else [classes[each] for each in decisions.sets[i]],
            )
        )
    return Predictions(predictions=predictions)
