"""Before anything imports triton: where there is no GPU its kernels run in its interpreter, which it asks for once."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
