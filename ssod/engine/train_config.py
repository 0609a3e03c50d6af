"""The config section ``train``."""

from typing import Literal

from pydantic import Field

from ssod.engine.logging.trackers import KINDS, Name
from ssod.engine.optim import SGD, OptimizerConfig
from ssod.engine.schedule import Constant, ScheduleConfig, WarmUp
from ssod.utils.device import Precision
from ssod.utils.schema import Duration, Section


class BatchSize(Section):
    """Images per optimiser step, over all processes and micro-batches together."""

    labeled: int = Field(8, ge=1)
    "Labelled images."
    unlabeled: int = Field(8, ge=0)
    "Unlabelled images; before the end of burn-in none is opened."


class TrainConfig(Section):
    """How long, how fast and how carefully to train."""

    steps: int = Field(ge=1)
    "Optimiser steps in all, burn-in included."
    batch: BatchSize = BatchSize()
    "Images per step, in total over all processes."
    accumulate: int = Field(1, ge=1)
    """Micro-batches per step, one after the other: the same batch in less memory, and the same gradient, for losses are
    divided by what the whole batch counts. Live batch norm sees a micro-batch, and padding is that of its images."""
    optimizer: OptimizerConfig = SGD()
    "`{name: sgd, ...}` or `{name: adamw, ...}`."
    lr: float = Field(0.01, gt=0)
    "Learning rate for this batch; it is not scaled for you."
    schedule: ScheduleConfig = Constant()
    "`{name: constant}`, `{name: multistep, milestones: [...]}` or `{name: cosine}`."
    warm_up: WarmUp = WarmUp()
    "Linear rise of the learning rate at the start."
    clip: float = Field(0.0, ge=0)
    "Largest norm of the gradient; 0 = no limit."
    precision: Precision = "fp32"
    "Number format of the forward pass. fp16 scales the loss and skips steps that overflow."
    channels_last: bool = False
    "Memory order of images and weights; faster on GPUs with tensor cores."
    deterministic: bool = False
    "Refuse operations whose result depends on the order of threads; slower."
    seed: int = Field(0, ge=0)
    "Of everything random: the same seed gives the same run."
    workers: int = Field(2, ge=0)
    "Processes that read images, per process that trains."
    device: Literal["auto", "cpu", "cuda"] = "auto"
    "`auto` takes a GPU where there is one."
    log_every: Duration = 50
    "Steps between two lines of the log; 0 = only after the last step."
    eval_every: Duration = 5000
    "Steps between two evaluations; 0 = only after the last step."
    save_every: Duration = 1000
    "Steps between two checkpoints; 0 = only after the last step."
    keep_burn_in: bool = False
    """Keep the state in which burn-in ends as `checkpoints/burn_in.pt`, for runs that begin with it (`ssod train
    --from-burn-in`); by the run that makes these steps, with a method whose burn-in is that of `supervised`."""
    eval_student: bool = False
    "Evaluate the student next to the teacher."
    best: Literal["AP", "AP50", "AP75"] = "AP"
    "Metric of the evaluation that decides which teacher is `best.safetensors`."
    bad_steps: int = Field(3, ge=1)
    "So many steps in a row with a loss or gradient that is not finite end the run; fewer are skipped."
    warn_after: Duration = 200
    """Steps without a single pseudo box, with an exploding unsupervised loss, or whose boxes all miss the labelled
    objects, after which the log says why; 0 = no warnings but of a collapse."""
    on_collapse: Literal["warn", "stop", "roll_back"] = "warn"
    """What to do when the teacher's AP falls below half of its best: `warn` says so, `stop` also ends the run with code
    5, `roll_back` also puts models and optimiser back to where the best teacher was and goes on from there."""
    tensorboard: bool = False
    "Write TensorBoard event files into the run folder as well: every number, and the report's figures as pictures."
    wandb: bool = False
    "Send numbers and figures to Weights & Biases as well, if it is installed."
    mlflow: bool = False
    "Send numbers and figures to MLflow as well, if it is installed."

    @property
    def trackers(self) -> list[Name]:
        """Names of the trackers that are wanted."""
        return [name for name in KINDS if getattr(self, name)]
