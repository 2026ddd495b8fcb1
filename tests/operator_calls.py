"""What a training step asks of torch, counted on the processor: `python tests/operator_calls.py`, a minute.

Prints the operators of a step (batch 64, VDSR-f13, Adam, 16 shards) as the processor takes it and as a GPU would. A
GPU launches about a kernel for each that is no view. What is read back from a tensor, a GPU would be waited for.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ail_ray.imaging import bank as banks
from ail_ray.learning import theta

VIEWS = {"as_strided", "detach", "expand", "permute", "select", "slice", "split", "t", "unbind", "unsqueeze", "view"}
BOOKKEEPING = {"_record_function_enter_new", "_record_function_exit"}
READS = {"_local_scalar_dense", "is_nonzero", "nonzero"}


class Calls(TorchDispatchMode):
    """Counts the operators that torch is asked for, by name; `kernels` are those that compute, `reads` read back."""

    def __init__(self) -> None:
        super().__init__()
        self.of = Counter[str]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.of[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def per_step(train: Callable[[int], object], steps: int = 10) -> dict[str, float]:
    """Operators of a step in an epoch, without those that an epoch has once; `train` takes how many steps it has."""
    train(1)
    counts = []
    for n in (1, 1 + steps):
        with Calls() as calls:
            train(n)
        counts.append(calls.of)
    more = {name: counts[1][name] - counts[0][name] for name in counts[1]}
    kernels = sum(n for name, n in more.items() if name not in VIEWS | BOOKKEEPING)
    return {
        "operators": sum(more.values()) / steps,
        "kernels": kernels / steps,
        "reads": sum(more.get(name, 0) for name in READS) / steps,
    }


def copies_per_batch(bank: banks.Bank, batch: int, steps: int = 64) -> float:
    """Copies to the device for the crops of a step, those of so many in a row; the device is `meta`, without memory."""
    for shard in bank.shards.values():
        shard.hr, shard.inputs = shard.hr.to("meta"), shard.inputs.to("meta")
    there = banks.Bank(bank.shards, total_shards=bank.total_shards, crop=bank.crop, seed=bank.seed)
    for s, shard in there.shards.items():
        there.weigh(s, torch.ones(shard.pixels).half().numpy())
    with Calls() as calls:
        if hasattr(there, "batches"):
            list(there.batches(round=0, epoch=0, steps=range(steps), batch=batch))
        else:  # before crops were drawn for many steps
            [there.crops(round=0, epoch=0, step=step, batch=batch) for step in range(steps)]
    return calls.of["_to_copy"] / steps


def main() -> None:
    """Count, and print a line for each way."""
    from ail_ray.benchmarks.kernels import trainer

    torch.set_num_threads(1)
    for way, apart in (("processor", False), ("GPU", True)):
        with (
            patch.object(banks, "apart", lambda device, apart=apart: apart, create=True),
            patch.object(theta, "apart", lambda device, apart=apart: apart, create=True),
            trainer(batch=64, shards=16, downsizes=(1.0, 0.7, 0.5), optimizer="adam") as ours,
        ):
            found = per_step(ours.epoch)
        print(f"as the {way} takes it: " + ", ".join(f"{value:g} {name}" for name, value in found.items()))
    with trainer(batch=64, shards=16, downsizes=(1.0, 0.7, 0.5)) as ours:
        print(f"copies to the device for the crops of a step: {copies_per_batch(ours.bank, 64):g}")


if __name__ == "__main__":
    main()
