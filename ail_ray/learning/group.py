"""The workers of a run, as far as the algorithm needs to know them: sums and barriers."""

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """Rank and size of the process group, and the device it communicates on; for a group of one nothing is sent."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the workers' tensors, in place and on every worker."""
        if self.size > 1:
            there = tensor.to(self.device)  # NCCL takes nothing that lies in main memory
            dist.all_reduce(there)
            if there is not tensor:
                tensor.copy_(there)
        return tensor

    def barrier(self) -> None:
        """Wait until every worker has come this far."""
        if self.size > 1:
            dist.barrier()
