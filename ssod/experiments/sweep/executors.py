"""Which executor a sweep file names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from ssod.experiments.sweep.executor import Executor, Local
from ssod.experiments.sweep.ray_tasks import Ray
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


class RayConfig(Section):
    """Runs are tasks of Ray."""

    name: Literal["ray"] = "ray"
    "The kind of executor."
    address: str | None = None
    "Of a cluster, as `ray.init` takes it: `auto`, `HOST:6379`; by default Ray runs on this machine, for this sweep."
    num_cpus: float = Field(1, ge=0)
    "CPUs that a run takes of the cluster's."
    num_gpus: float | None = Field(None, ge=0)
    "GPUs that a run takes; by default one, where the cluster has any."
    resources: dict[str, float] = {}
    "Of other kinds that a run takes: `{a100: 1}`."
    init: dict[str, Any] = {}
    "Further arguments of `ray.init`: `{num_cpus: 8, object_store_memory: 100000000}`."


AnyExecutor = LocalConfig | SubmititConfig | RayConfig
# ``submitit`` is short for ``{name: submitit}``.
ExecutorConfig = Annotated[
    Annotated[AnyExecutor, Field(discriminator="name")],
    BeforeValidator(named, json_schema_input_type=str | AnyExecutor),
]


def build_executor(cfg: AnyExecutor, out: Path) -> Executor:
    """Return the executor that ``cfg`` names; ``out`` is the folder of the sweep's runs."""
    if isinstance(cfg, LocalConfig):
        return Local()
    if isinstance(cfg, RayConfig):
        return Ray(cfg.address, cfg.num_cpus, cfg.num_gpus, cfg.resources, cfg.init)
    return Submitit(out.absolute() / "jobs", cfg.cluster, cfg.parameters)
