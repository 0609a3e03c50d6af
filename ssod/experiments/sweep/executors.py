"""Which executor a sweep file names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ssod.experiments.sweep.executor import Executor, Local
from ssod.experiments.sweep.submitit_jobs import Submitit
from ssod.utils.schema import Section, named


class LocalConfig(Section):
    """Runs are processes of this machine."""

    name: Literal["local"] = "local"
    "The kind of executor."


class SubmititConfig(Section):
    """Runs are jobs of Slurm, by submitit."""

    name: Literal["submitit"] = "submitit"
    "The kind of executor."
    cluster: Literal["slurm", "local"] | None = None
    "`local` = processes of this machine in the place of jobs; by default Slurm where it is found."
    parameters: dict[str, Any] = {}
    "For submitit: `{timeout_min: 600, gpus_per_node: 1, cpus_per_task: 8, slurm_partition: gpu}`."


# ``submitit`` is short for ``{name: submitit}``.
ExecutorConfig = Annotated[
    Annotated[LocalConfig | SubmititConfig, Field(discriminator="name")],
    BeforeValidator(named, json_schema_input_type=str | LocalConfig | SubmititConfig),
]


def build_executor(cfg: LocalConfig | SubmititConfig, out: Path) -> Executor:
    """Return the executor that ``cfg`` names; ``out`` is the folder of the sweep's runs."""
    if isinstance(cfg, LocalConfig):
        return Local()
    return Submitit(out.absolute() / "jobs", cfg.cluster, cfg.parameters)
