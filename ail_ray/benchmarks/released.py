"""A training step as the authors' released code does it, to compare ours with.

The authors' code stores no importance. The teacher and the previous student run on every batch, and the weights follow
from their errors, all in float32 and in torch's default memory format. The mathematics is that of our rule `reference`.
"""

import torch

from ail_ray.imaging.bank import Crops
from ail_ray.learning.config import RunConfig
from ail_ray.networks.architectures import Network


@torch.no_grad()
def released_importance(
    teacher: Network, previous: Network | None, inputs: torch.Tensor, hr: torch.Tensor, t: int, config: RunConfig
) -> torch.Tensor:
    """Importance of a batch in round t: Eq. 8 of the teacher's error, raised by the errors of the previous student.

    Args:
        previous: the student of the round before; None in round 0.
        inputs, hr: (n, 1, crop, crop) on [0, 1], of one float type; the result is of the same shape and type.
    """
    c = config
    z = 1 + torch.exp(inputs.new_tensor(-c.known_mu0 * c.alpha0))
    first = z / (1 + torch.exp(((teacher(inputs) - hr).abs() - c.known_mu0) * c.alpha0))
    if previous is None:
        return first
    step = c.lam + c.lam * (t - 1)
    return (first + step * torch.exp(-10 * (previous(inputs) - hr).abs())).clamp(0, 1)


def released_step(
    student: Network, optimizer: torch.optim.Optimizer, teacher: Network, previous: Network | None, crops: Crops,
    t: int, config: RunConfig,
) -> torch.Tensor:  # fmt: skip
    """Take one step on a batch of the bank, whose own importance is not read; returns the loss (Eq. 4)."""
    kind = next(student.parameters()).dtype
    inputs, hr = crops.inputs.to(kind), crops.hr.to(kind) / 255
    importance = released_importance(teacher, previous, inputs, hr, t, config)
    loss = (importance * (hr - student(inputs))).square().sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), config.clip)
    optimizer.step()
    return loss.detach()
