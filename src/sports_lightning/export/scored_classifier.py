"""A classifier as one module, from images to probabilities and rejection scores, for the exporters."""

from torch import Tensor, nn

from sports_lightning.export.any_size import AnySizePreprocessing
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.conv_bn_fusion import fuse_conv_bn


class ScoredClassifier(nn.Module):
    """Images to probabilities (n, classes) float32 and, if the classifier has them, rejection scores (n,) float32.

    Args:
        classifier: it is copied, with Conv-BN fused.
        any_size: the module takes decoded images, uint8 (n, height, width, 3), and preprocesses them; else it takes
            preprocessed ones, uint8 (n, 3, height, width).

    Raises:
        UserError: a preprocessing that cannot be exported.
    """

    def __init__(self, classifier: Classifier, any_size: bool) -> None:
        super().__init__()
        self.classifier = fuse_conv_bn(classifier)
        self.preprocess = AnySizePreprocessing(classifier.preprocessing) if any_size else nn.Identity()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the probabilities and the scores."""
        logits = self.classifier(self.preprocess(images))
        probabilities = logits.softmax(dim=1)
        if self.classifier.rejection is None:
            return (probabilities,)
        return probabilities, self.classifier.rejection(logits)
