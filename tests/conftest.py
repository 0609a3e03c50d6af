"""What holds for every test."""

import os

import torch

# Two cores: parallel kernels inside tiny models cost more than they gain, and bits must not depend on the machine.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
