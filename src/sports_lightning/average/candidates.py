"""Averages of checkpoints: which ones are tried, and which one the validation split chooses."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sports_lightning.evaluate.evaluation import Evaluation
from sports_lightning.evaluate.metrics import compute_metrics

log = logging.getLogger(__name__)

Shares = tuple[float, ...]
Evaluate = Callable[[Shares], Evaluation]  # of the average with these shares, on the validation split
STEPS = 10  # of a path


@dataclass(frozen=True)
class Candidate:
    """An average and its metrics on the validation split.

    Attributes:
        shares: of the checkpoints, in the order in which they were given.
        evaluation: on the validation split.
        acc: accuracy.
        loss: cross-entropy.
    """

    shares: Shares
    evaluation: Evaluation
    acc: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better: the accuracy, and between equal ones the lower loss."""
        return self.acc, -self.loss


def measure(shares: Shares, evaluate: Evaluate) -> Candidate:
    """Evaluate an average.

    Args:
        shares: of the checkpoints.
        evaluate: evaluates an average.
    """
    evaluation = evaluate(shares)
    metrics = compute_metrics(evaluation.logits, evaluation.labels)
    candidate = Candidate(shares, evaluation, metrics["acc"], metrics["loss"])
    log.info("%s: accuracy %.4f, loss %.4f", " + ".join(f"{s:.3g}" for s in shares), candidate.acc, candidate.loss)
    return candidate


def uniform(count: int, evaluate: Evaluate) -> list[Candidate]:
    """The single checkpoints and their mean; the mean is last, and is the choice whatever its metrics.

    Args:
        count: number of checkpoints.
        evaluate: evaluates an average.
    """
    return [*_singles(count, evaluate), measure((1 / count,) * count, evaluate)]


def greedy(count: int, evaluate: Evaluate) -> list[Candidate]:
    """Greedy soup (Wortsman et al. 2022, "Model soups", algorithm 1), with the accuracy and then the loss as criterion.

    Beginning with the best checkpoint, the others are added in the order of their rank, and kept if the mean is not
    worse than before.

    Args:
        count: number of checkpoints.
        evaluate: evaluates an average.
    """
    candidates = _singles(count, evaluate)
    order = sorted(range(count), key=lambda i: candidates[i].rank, reverse=True)
    members, best = order[:1], candidates[order[0]]
    for i in order[1:]:
        tried = [*members, i]
        candidate = measure(tuple(1 / len(tried) if j in tried else 0.0 for j in range(count)), evaluate)
        candidates.append(candidate)
        if candidate.rank >= best.rank:
            members, best = tried, candidate
    return candidates


def path(count: int, evaluate: Evaluate) -> list[Candidate]:
    """Interpolations of two checkpoints in steps of a tenth (Wortsman et al. 2022, "Robust fine-tuning", WiSE-FT).

    Args:
        count: number of checkpoints, 2.
        evaluate: evaluates an average.

    Raises:
        ValueError: another number of checkpoints.
    """
    if count != 2:
        raise ValueError(f"a path has two ends, and there are {count} checkpoints")
    return [measure(((STEPS - i) / STEPS, i / STEPS), evaluate) for i in range(STEPS + 1)]


METHODS = {"greedy": greedy, "uniform": uniform, "path": path}


def choose(method: str, candidates: Sequence[Candidate]) -> Candidate:
    """The average that a method ends with: the best one, except for `uniform`, which chooses nothing."""
    return candidates[-1] if method == "uniform" else max(candidates, key=lambda candidate: candidate.rank)


def _singles(count: int, evaluate: Evaluate) -> list[Candidate]:
    return [measure(tuple(float(i == j) for j in range(count)), evaluate) for i in range(count)]
