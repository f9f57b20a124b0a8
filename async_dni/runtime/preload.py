"""What the server that workers are forked from loads once, so that a worker starts in milliseconds.

PyTorch loads its compiler when the first optimizer is made, which takes seconds. Nothing here computes: threads of a
computation would not survive the fork.
"""

import torch

from . import worker_process  # noqa: F401
from .machine.parent_death import outlive_parent
from .machine.socket_folder import remove_socket_at_exit

torch.optim.Adam([torch.nn.Parameter(torch.empty(1))])

remove_socket_at_exit()
outlive_parent()  # from here on the server sees by itself that nobody needs it any more
