"""What a process that others are forked from has done before: imports, and a first optimizer.

Both take seconds, and a test that starts, kills and starts again would wait for nothing else.
"""

import timm.optim  # noqa: F401  Adafactor and Muon
import torch

import tiny_run  # noqa: F401  with everything that training needs

torch.set_num_threads(1)
torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
