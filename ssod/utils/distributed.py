"""Several processes: joining and leaving the job that torchrun started, and work that only rank 0 does."""

import atexit
import gc
import inspect
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ssod.utils import collective
from ssod.utils.errors import Exit, SsodError

T = TypeVar("T")
Device = Literal["auto", "cpu", "cuda"]


def pick_device(wanted: Device) -> torch.device:
    """Return the device of this process; under torchrun, the GPU of its local rank.

    Raises:
        SsodError: with code 2 when CUDA is wanted and absent, or there are fewer GPUs than processes.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SsodError("config", "train.device", "'cuda' is not available here", "set train.device=cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        have = torch.cuda.device_count()
        problem, fix = f"{local + 1} processes or more, {have} GPUs", f"set it to {have}, or train.device=cpu"
        raise SsodError("command line", "--nproc-per-node", problem, fix)
    return torch.device("cuda", local)


@contextmanager
def job(device: torch.device, *, timeout: float = 600.0) -> Generator[None, None, None]:
    """Take part in the job that torchrun describes in the environment; alone, do nothing.

    After an error the job is not left in order: with NCCL that takes every rank, and the others may be waiting for this
    one in a collective. The process is to say what happened and end, and torchrun ends the others.

    Args:
        device: where the tensors of collectives lie; ``cuda`` uses NCCL, and gloo for what lies on the CPU.
        timeout: seconds after which a collective that some rank does not join is an error.

    Raises:
        SsodError: with code 8 when a rank cannot be reached, at the start or later.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    # DDP's wrapper is part of a cycle and holds the process group, whose threads may not outlive Python: a rank was
    # seen to abort when it had done all its work, and its job to be called a failure.
    atexit.register(gc.collect)
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        raise _lost(error) from error
    try:
        yield
    except RuntimeError as error:
        if is_lost_peer(error):
            raise _lost(error) from error
        raise
    dist.destroy_process_group()


def is_lost_peer(error: BaseException) -> bool:
    """Return whether ``error`` comes from a collective whose other side is gone or late, not from a fault here."""
    if isinstance(error, dist.DistError):
        return True
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "NCCL")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _lost(error: BaseException) -> SsodError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    where = f"rank {os.environ.get('RANK', '?')}"
    return SsodError(
        where,
        "",
        f"another rank died or is late: {reason}",
        "see its own message; start again, with -o and the run folder, to go on",
        code=Exit.DISTRIBUTED,
    )


def wrap(method: nn.Module) -> nn.Module:
    """Return ``method`` with gradients averaged over ranks; alone, as it is.

    Every rank runs every branch of a step, so no parameter goes unused; buffers are each rank's own, but for those of
    ``average_statistics``.
    """
    if not collective.active():
        return method
    # torch 2.15 renames the argument and warns about the old name.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    buffers: dict[str, Any] = {name: False}
    return DistributedDataParallel(method, find_unused_parameters=False, **buffers)


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Average the running statistics of live batch norm over ranks, each of which has seen its share of the images.

    Without it every rank would have a teacher of its own, and measure its share of an evaluation with that one.
    """
    own = live_statistics(model) if collective.active() else []
    if own:
        mean = collective.mean_over_ranks(torch.cat(own))
        torch._foreach_copy_(own, list(mean.split([len(buffer) for buffer in own])))


def live_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running means and variances that a forward pass of ``model`` moves."""
    live = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    both = [buffer for module in live for buffer in (module.running_mean, module.running_var)]
    return [buffer for buffer in both if buffer is not None]


@contextmanager
def no_sync(model: nn.Module, wanted: bool) -> Generator[None, None, None]:
    """Leave gradients un-averaged inside, if ``wanted``: for all but the last of several micro-batches."""
    if wanted and isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    else:
        yield


def on_rank_zero(work: Callable[[], T]) -> T:
    """Do ``work`` on rank 0 alone and hand its result, or its error, to every rank; a barrier for all."""
    if not collective.active():
        return work()
    answer: list[Any] = [None, None]
    if collective.rank() == 0:
        try:
            answer[0] = work()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
    if answer[1] is not None:
        if isinstance(answer[1], SsodError):
            answer[1].teller = 0
        raise answer[1]
    return answer[0]


def together(work: Callable[[], T]) -> T:
    """Do ``work`` on every rank and return each one's own result; where some rank is refused, all of them are.

    ``work`` must not wait for other ranks. A rank that could go on raises what the lowest of the others had; what
    several have is told by the lowest of them.
    """
    if not collective.active():
        return work()
    results: list[T] = []
    refusal: SsodError | None = None
    try:
        results.append(work())
    except SsodError as error:
        refusal = error
    errors = gather(refusal)
    if refusal is not None:
        refusal.teller = [error and error.line() for error in errors].index(refusal.line())
        raise refusal
    for rank, error in enumerate(errors):
        if error is not None:
            error.teller = rank
            raise error
    return results[0]


def gather(item: T) -> list[T]:
    """Return every rank's ``item``, in rank order, on every rank; anything that pickles."""
    if not collective.active():
        return [item]
    items: list[Any] = [None] * collective.world_size()
    dist.all_gather_object(items, item)
    return items
