"""The last scores of each class, newest first, the same on every rank."""

import torch
from torch import Tensor, nn

from ssod.utils.collective import all_gather_rows


class ScoreBank(nn.Module):
    """One queue of scores per class, of fixed size: what comes in at the front pushes the oldest out.

    As released (arXiv:2209.01589), but for one thing: there each GPU has a bank of its own; here every rank puts in the
    scores of all ranks, in rank order, so that all ranks have one bank and agree on what follows from it.

    Args:
        num_classes: K.
        size: S, scores kept per class.

    Attributes:
        scores: [K, S] float32, newest first; 0 = empty slot, of which there are none between scores.
    """

    def __init__(self, num_classes: int, size: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.zeros(num_classes, size))

    @torch.no_grad()
    def push(self, labels: Tensor, scores: Tensor) -> Tensor:
        """Put in one batch's scores; of one class, those that come first here stay longest.

        Args:
            labels: [n] int64 in ``0..K-1``; ``n`` may differ between ranks.
            scores: [n], above 0.

        Returns:
            [K] bool: the classes of these scores, over all ranks.
        """
        labels, scores = self._of_all_ranks(labels, scores)
        classes, size = self.scores.shape
        labels, order = labels.sort(stable=True)
        every = torch.arange(classes, device=labels.device)
        first, end = torch.searchsorted(labels, every), torch.searchsorted(labels, every, right=True)

        # The old scores move back by as many places as there are new ones; what moves past the end is lost.
        source = torch.arange(size, device=labels.device) - (end - first)[:, None]
        moved = self.scores.gather(1, source.clamp(min=0))
        # A column too many takes the new scores for which there is no place either.
        place = (torch.arange(len(labels), device=labels.device) - first[labels]).clamp(max=size)
        wider = torch.cat([moved, moved[:, :1]], 1).index_put((labels, place), scores[order].float())
        self.scores.copy_(wider[:, :size])
        return end > first

    def fill(self) -> Tensor:
        """Return the share of slots with a score, a scalar."""
        return (self.scores > 0).float().mean()

    @staticmethod
    def _of_all_ranks(labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        # One exchange instead of two: float32 holds a label exactly.
        rows = all_gather_rows(torch.stack([labels.float(), scores.float()], 1))
        return rows[:, 0].long(), rows[:, 1]
