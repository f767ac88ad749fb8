"""The rejection score: how much an image looks like one of the classes that a classifier knows.

The raw score is the generalized entropy of the probabilities (GEN; Liu, Lochman and Zach 2023, "GEN: Pushing the
Limits of Softmax-Based Out-of-Distribution Detection"). It was chosen on figures, see docs/log/rejection.md. The
rejection score of an image is the share of the validation images whose raw score is lower: it means the same for every
classifier, and a threshold on it is the share of known images that it rejects.
"""

import numpy as np
import torch
from torch import Tensor, nn

_POWER, _CLASSES = 0.1, 100  # gamma and M of the paper
_KNOTS = 1001  # of the distribution that is stored


def known_class_evidence(logits: Tensor) -> Tensor:
    """The raw score (n,) of logits (n, classes), in their dtype: minus their generalized entropy, 0 or less."""
    ordered = logits.softmax(dim=1).sort(dim=1, descending=True).values
    # One minus the largest probability, without the rounding of a difference: its tenth root would be large.
    complement = torch.cat([ordered[:, 1:].sum(dim=1, keepdim=True), 1 - ordered[:, 1:]], dim=1)
    return -(ordered * complement)[:, :_CLASSES].pow(_POWER).sum(dim=1)


class RejectionScore(nn.Module):
    """Logits (n, classes) to rejection scores (n,) between 0 and 1, in the dtype of the logits.

    Between the raw scores of the validation images the score is interpolated. It falls to 0 as far below the lowest one
    as the median is above it.

    Args:
        knots: (m,) float32, raw scores in ascending order.
        levels: (m,) float32, the scores there.
        images: number of validation images that it was fitted to.
    """

    knots: Tensor
    levels: Tensor

    def __init__(self, knots: Tensor, levels: Tensor, images: int) -> None:
        super().__init__()
        # Not in the state dict, which holds the weights: a checkpoint has a key of its own for these.
        self.register_buffer("knots", knots, persistent=False)
        self.register_buffer("levels", levels, persistent=False)
        self.images = images

    @classmethod
    def fit(cls, logits: Tensor) -> "RejectionScore":
        """Fit the score to the logits (n, classes) of the validation images."""
        scores = known_class_evidence(logits.double()).sort().values.numpy()
        below = scores[0] - max(np.median(scores) - scores[0], 1e-6)
        levels = np.arange(len(scores) + 1) / (len(scores) + 1)
        knots = np.array([below, *scores], dtype=np.float32)
        if len(knots) > _KNOTS:
            chosen = np.linspace(0, len(knots) - 1, _KNOTS).round().astype(int)
            knots, levels = knots[chosen], levels[chosen]
        last = np.append(np.diff(knots) > 0, True)  # of equal scores, the highest level
        return cls(torch.from_numpy(knots[last]), torch.from_numpy(levels[last].astype(np.float32)), len(scores))

    def forward(self, logits: Tensor) -> Tensor:
        """Return the scores (n,) of logits (n, classes)."""
        knots, levels = self.knots.to(logits.dtype), self.levels.to(logits.dtype)
        raw = known_class_evidence(logits)[:, None]
        shares = ((raw - knots[:-1]) / knots.diff()).clamp(0, 1)  # of each step between two knots
        return shares @ levels.diff()

    def tensors(self) -> dict[str, Tensor | int]:
        """The arguments of the constructor, for a checkpoint."""
        return {"knots": self.knots.cpu(), "levels": self.levels.cpu(), "images": self.images}
