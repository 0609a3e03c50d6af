"""The last scores of each class, newest first: of all ranks and parts of a step together, or of each by itself."""

import torch
from torch import Tensor, nn

from ssod.utils import collective


class ScoreBank(nn.Module):
    """One queue of scores per class, of fixed size: what comes in at the front pushes the oldest out.

    In the released code (arXiv:2209.01589) each GPU has a bank of its own, which no other one sees. So has each rank
    here with ``per_rank``, and each part of its step (``train.accumulate``), as if it were a rank. Without, every rank
    puts in the scores of all ranks and parts, in their order, so that all have one bank and agree on what follows.

    Args:
        num_classes: K.
        size: S, scores kept per class.
        per_rank: whether each rank, and each part of its step, has a bank of its own.

    Attributes:
        scores: [B K, S] float32, newest first; 0 = empty slot, of which there are none between scores. B banks, one
            after the other: 1, or with ``per_rank`` as many as ``divide`` was told.
    """

    scores: Tensor

    def __init__(self, num_classes: int, size: int, *, per_rank: bool = False) -> None:
        super().__init__()
        self.num_classes, self.per_rank = num_classes, per_rank
        self.alike = () if per_rank else ("scores",)  # on all ranks
        self.register_buffer("scores", torch.zeros(num_classes, size))

    def divide(self, parts: int) -> None:
        """Make empty banks for a step of so many parts; called before the first score, and before a state is loaded."""
        if self.per_rank:
            self.scores = self.scores.new_zeros(parts * self.num_classes, self.scores.shape[1])

    @torch.no_grad()
    def push(self, labels: Tensor, scores: Tensor) -> Tensor:
        """Put in one batch's scores; of one class, those that come first here stay longest.

        Args:
            labels: [n] int64 in ``0..K-1``; ``n`` may differ between ranks and parts.
            scores: [n], above 0.

        Returns:
            [B K] bool: the classes of these scores, over all ranks and parts that share a bank; and with ``per_rank``,
            once they are known, those of the other parts in their own banks.
        """
        labels, scores = self._of_all(labels, scores)
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

    def mine(self, values: Tensor) -> Tensor:
        """Return [K] of [B K] values: those of the bank of the part that runs."""
        return values.view(-1, self.num_classes)[self._number()]

    def fill(self) -> Tensor:
        """Return the share of slots with a score, over all banks of this rank, a scalar."""
        return (self.scores > 0).float().mean()

    def _number(self) -> int:
        """Return which of the banks is that of the part that runs."""
        number = collective.part() if self.per_rank else 0
        if (number + 1) * self.num_classes > len(self.scores):
            raise ValueError(f"part {number} of a step has no score bank; tell 'divide' how many parts there are")
        return number

    def _of_all(self, labels: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of ``scores`` that belong to the labels of all that share these banks, and the scores."""
        labels = labels + self._number() * self.num_classes
        rows = torch.stack([labels.float(), scores.float()], 1)  # one exchange: float32 holds a label exactly
        rows = collective.gather_parts(rows) if self.per_rank else collective.all_gather_rows(rows)
        return rows[:, 0].long(), rows[:, 1]
