"""What ``ssod plan`` found out, and how it is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rich.table import Table

from ssod import build
from ssod.utils.printing import console, duration


@dataclass(frozen=True)
class Phase:
    """One stretch of a run.

    Attributes:
        name: ``burn-in``, ``labels only``, ``pseudo-labels`` or ``supervised``.
        start: its first step.
        steps: how many steps it has.
        compute: seconds that the device needs for a step.
        load: seconds that the data workers need for a step's images.
        serial: there are no workers: the process that computes reads as well.
    """

    name: str
    start: int
    steps: int
    compute: float = math.nan
    load: float = math.nan
    serial: bool = False

    @property
    def step(self) -> float:
        """Seconds of a step: workers, if there are any, read the next images while the device computes."""
        return self.compute + self.load if self.serial else max(self.compute, self.load)

    @property
    def seconds(self) -> float:
        """The whole stretch."""
        return self.steps * self.step


@dataclass(frozen=True)
class Amounts:
    """What a run is given, and how often it sees it.

    Attributes:
        steps: of the training.
        images_labeled: images that keep their labels.
        images_unlabeled: images that are learnt from without; 0 where the method takes none.
        images_val: images to measure on; 0 = no AP will be known.
        batch_labeled, batch_unlabeled: images of a step, of all processes and parts together.
        epochs_labeled, epochs_unlabeled: how often each image is seen on average; 0 where there are none.
    """

    steps: int
    images_labeled: int
    images_unlabeled: int
    images_val: int
    batch_labeled: int
    batch_unlabeled: int
    epochs_labeled: float
    epochs_unlabeled: float


@dataclass(frozen=True)
class Plan(Amounts):
    """What ``plan`` found out; what it has of ``Amounts`` is said there.

    Attributes:
        rows: (what, how much) for people, in groups; a row of two empty strings ends a group. It is no part of the
            JSON, whose numbers it is made of.
        warnings: what is likely to go wrong.
        phases: with the seconds measured.
        evaluation: seconds of one evaluation, the student's included if it is evaluated; 0 without validation images.
        evaluations: how many there will be.
        memory_gb: most memory used while measuring, in GB: of the device, or of this process on a CPU.
        device: where it was measured, ``cpu`` or ``cuda:0``.
        load: of the machine while it was measured, in words.
    """

    rows: list[tuple[str, str]] = field(repr=False)
    warnings: list[str]
    phases: list[Phase]
    evaluation: float = 0.0
    evaluations: int = 0
    memory_gb: float = math.nan
    device: str = "cpu"
    load: str = ""

    @property
    def seconds_per_step(self) -> float:
        """Mean seconds of a step of the run, without evaluations; NaN where nothing was measured."""
        steps = sum(phase.steps for phase in self.phases)
        return sum(phase.seconds for phase in self.phases) / steps if steps else math.nan

    @property
    def hours(self) -> float:
        """Hours of the whole run, evaluations included."""
        return self.seconds / 3600

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, evaluations included."""
        return sum(phase.seconds for phase in self.phases) + self.evaluation * self.evaluations


# ---- what people see ---------------------------------------------------------------------------------------------


def show(found: Plan, title: str) -> None:
    """Print a plan as a table, warnings below it."""
    out = console()
    table = Table(title=title, show_header=False)
    for what, how_much in [*found.rows, ("", ""), *_measured(found)]:
        if what:
            table.add_row(what, how_much)
        else:
            table.add_section()
    out.print(table)
    for warning in found.warnings:
        out.print(f"warning: {warning}", style="yellow")
    out.print("Measured with an untrained detector, which keeps no pseudo-boxes; later steps take a little longer.")
    if found.evaluations and found.phases[-1].name == build.TAUGHT:
        out.print("The look at pseudo-labels after each evaluation (eval.diagnose) is not counted.")


def _measured(found: Plan) -> list[tuple[str, str]]:
    rows = []
    for p in found.phases:
        parts = f"computing {p.compute:.3g}, {'then ' if p.serial else ''}reading {p.load:.3g}"
        rows.append((f"seconds per step, {p.name}", f"{p.step:.3g} ({parts})"))
    if found.evaluations:
        rows.append(("evaluation", f"{found.evaluations} x {duration(found.evaluation)}"))
    here = f"measured at {found.load or 'an unknown load'}"
    rows.append(("in all", f"about {duration(found.seconds)} on {found.device}, {here}"))
    what = "of this process" if found.device == "cpu" else "of the device"
    rows.append(("memory", f"{found.memory_gb:.1f} GB {what}"))
    return rows
