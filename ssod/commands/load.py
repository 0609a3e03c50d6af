"""How busy this machine is: what is measured beside other processes takes longer, and torch's threads wait for theirs.

A step on the CPU is shared by torch's threads, and ends with the last of them. Where there are more threads than free
CPUs, one of them waits for another process each time, and all the others for it: fewer threads are faster then.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
NOISE = 0.75  # of a CPU: what less is in use is that of a machine at rest, and of the command itself


@dataclass(frozen=True)
class Load:
    """What a machine was doing.

    Attributes:
        busy: processes that ran or waited for a CPU, the mean of the last minute; None = the system does not say.
        cpus: of the machine.
        usable: that this process may run on.
        quota: CPUs' worth of time that its group may have; infinite = no limit.
    """

    busy: float | None
    cpus: int
    usable: int
    quota: float = math.inf

    @property
    def free(self) -> float:
        """CPUs that this process can have, by what the others use."""
        left = self.cpus if self.busy is None else max(self.cpus - self.busy, 0.0)
        return min(left, self.usable, self.quota)

    def words(self) -> str:
        """Return ``load 1.9 on 2 CPUs``."""
        some = f", of which this process may use {min(self.usable, self.quota):g}"
        fewer = some if min(self.usable, self.quota) < self.cpus else ""
        return f"load {'unknown' if self.busy is None else f'{self.busy:.1f}'} on {self.cpus} CPUs{fewer}"

    def doubt(self, threads: int) -> str:
        """Return what is wrong with so many threads of torch, and what to do; empty where nothing is."""
        if threads - self.free < NOISE:
            return ""
        fitting = max(1, math.floor(self.free + 1 - NOISE))
        if fitting < threads:
            wait = f"torch's {threads} threads wait for each other"
            return f"{self.words()}: {wait}; set OMP_NUM_THREADS={fitting}"
        return f"{self.words()}: others are using it; steps will be faster on a free machine"


def measured() -> Load:
    """Return the load of this machine as it is now."""
    from ssod.data.loading.workers import usable_cpus  # which imports torch

    try:
        busy = os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        busy = None
    return Load(busy, os.cpu_count() or 1, usable_cpus(), quota())


def doubts(here: Load, device: str) -> list[str]:
    """Return what a plan warns of on a device; on a GPU torch's threads matter little."""
    import torch

    doubt = here.doubt(torch.get_num_threads()) if device == "cpu" else ""
    return [doubt] if doubt else []


def quota(groups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many CPUs' worth of time the control groups of this process allow; infinite where none limits it.

    Args:
        groups: where the system shows them.
        own: the file that names those of this process: ``0::/a/b`` of version 2, ``4:cpu,cpuacct:/a/b`` of version 1.
    """
    found = math.inf
    for line in _text(own).splitlines():
        if line.count(":") < 2:
            continue
        _, names, path = line.split(":", 2)
        if names and "cpu" not in names.split(","):
            continue
        for top in [groups / names, groups / "cpu"] if names else [groups]:
            # Inside a container the path may be that of its host, and the files lie at the top.
            found = min([found, _limit(top), *(_limit(top / part) for part in _upwards(path))])
    return found


def _upwards(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _limit(place: Path) -> float:
    """Return the CPUs that one group allows, of either version."""
    words = _text(place / "cpu.max").split() or [
        _text(place / "cpu.cfs_quota_us").strip(),
        _text(place / "cpu.cfs_period_us").strip(),
    ]
    try:
        share, period = (float(word) for word in words)
    except ValueError:  # "max", or no such file
        return math.inf
    return share / period if share > 0 and period > 0 else math.inf


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
