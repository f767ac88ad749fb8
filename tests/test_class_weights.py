"""Weights of classes in the training loss and in the refitted head."""

import pytest
import torch
from omegaconf import OmegaConf

from sports_lightning.errors import UserError
from sports_lightning.train.losses import class_weights

CLASSES, COUNTS = ["cat", "dog", "fox"], [4, 2, 2]


def test_class_weights_are_given_by_name_by_position_or_by_counts() -> None:
    assert class_weights(None, CLASSES, COUNTS) is None
    balanced = class_weights("balanced", CLASSES, COUNTS)
    assert balanced is not None
    torch.testing.assert_close(balanced, torch.tensor([8 / 12, 8 / 6, 8 / 6]))
    for given in (OmegaConf.create({"fox": 5}), OmegaConf.create([1, 1, 5])):
        weights = class_weights(given, CLASSES, COUNTS)
        assert weights is not None
        assert weights.tolist() == [1, 1, 5]
    accented = class_weights(OmegaConf.create({"Caf\u00e9": 3}), ["Cafe\u0301", "dog"], [1, 1])
    assert accented is not None
    assert accented.tolist() == [3, 1], "names are compared in their normal form"


@pytest.mark.parametrize(
    ("given", "message"), [({"wolf": 2}, "wolf"), ([1, 2], "2 weights for 3 classes"), ([0, 0, 0], "all 0")]
)
def test_class_weights_that_do_not_match_the_classes_are_refused(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_weights(OmegaConf.create(given), CLASSES, COUNTS)  # type: ignore[call-overload]
