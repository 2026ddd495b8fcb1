"""The θ-subproblem: train the student under the weighted loss while the importance stands still."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ail_ray.imaging.bank import Bank, Crops, apart
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.losses import bound, squared
from ail_ray.learning.precision import Precision, autocast, dtype_of
from ail_ray.learning.records import EpochLog
from ail_ray.learning.weights import model_tensors
from ail_ray.networks.architectures import Network
from ail_ray.networks.counts import parameter_count
from ail_ray.tensors import as_tensor

LOOK = 500
"""After how many steps on a GPU, and at the end of every epoch, it is looked whether their losses were finite."""
PROBE = 64
"""How many crops `silent_layers` looks at, unless a batch has more."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is no longer finite; the weights of the step before are untouched."""


class TrainState:
    """A student and its optimizer, available as flat named arrays."""

    def __init__(self, student: Network, config: RunConfig) -> None:
        self.student, self.config = student, config
        self.loss_of = bound(config.loss, config.of("loss"))
        self.restart()

    def begin(self, student: Network) -> None:
        """Take over a student's weights and forget the optimizer."""
        self.student.load_state_dict(student.state_dict())
        self.restart()

    def restart(self) -> None:
        """Take a fresh optimizer, as at the start of a run and, unless `restart` is `never`, of every round."""
        c, parameters = self.config, list(self.student.parameters())
        fused = apart(parameters[0].device)  # a few kernels a step, which wait for nothing and can be held
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(parameters, c.learning_rate, momentum=0.9, weight_decay=c.weight_decay, fused=fused)
            if c.optimizer == "sgd"
            else torch.optim.Adam(parameters, c.learning_rate, weight_decay=c.weight_decay, fused=fused)
        )
        if fused and c.optimizer == "sgd":  # else a first step that is held leaves momentum that nobody has written
            for parameter in parameters:
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def hold(self, wrong: torch.Tensor) -> None:
        """Let the steps of a fused optimizer change nothing, its own state included, wherever `wrong` is 1 by then.

        Args:
            wrong: () float32, which only the device reads.
        """
        self.optimizer.found_inf = wrong  # type: ignore[attr-defined]  # as torch.amp.GradScaler tells it

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays `student.<name>` and `optimizer.<parameter>.<name>`."""
        arrays = {f"student.{name}": array for name, array in model_tensors(self.student).items()}
        for i, slots in self.optimizer.state_dict()["state"].items():
            arrays |= {f"optimizer.{i}.{slot}": value.cpu().contiguous().numpy() for slot, value in slots.items()}
        return arrays

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Continue, bit for bit, from what `tensors` returned; from a student's arrays alone with a fresh optimizer."""
        weights: dict[str, torch.Tensor] = {}
        slots: dict[int, dict[str, torch.Tensor]] = {}
        parameters = list(self.student.parameters())
        for name, array in arrays.items():
            kind, rest = name.split(".", 1)
            value = as_tensor(array).clone()
            if kind == "student":
                weights[rest] = value
            elif kind == "optimizer":
                number, slot = rest.split(".", 1)
                if value.shape == (parameter := parameters[int(number)]).shape:
                    value = torch.empty_like(parameter).copy_(value)  # laid out as its weight, as fused optimizers need
                slots.setdefault(int(number), {})[slot] = value
        self.student.load_state_dict(weights)
        self.restart()
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})


def schedule_progress(config: RunConfig, round: int, epochs: float) -> float:
    """How far the schedule is after so many epochs of a round, in [0, 1): the round's, or the one over rounds 0..T.

    One schedule over all rounds counts round 0 even where that has nothing to train on.
    """
    progress = epochs / config.epochs
    return progress if config.restart == "round" else (round + progress) / (config.rounds + 1)


def learning_rate(config: RunConfig, progress: float) -> float:
    """The learning rate at a point of a schedule, `progress` in [0, 1).

    `step`: a tenth after each fifth (every 10 of the paper's 50 epochs). `cosine`: a linear warm-up over the first
    3 %, then half a cosine to zero.
    """
    if config.schedule == "step":
        return config.learning_rate * 0.1 ** int(5 * progress + 1e-9)
    warm_up = 0.03
    factor = progress / warm_up if progress < warm_up else (1 - progress) / (1 - warm_up)
    return config.learning_rate * (max(factor, 1e-3) if progress < warm_up else 0.5 * (1 - math.cos(math.pi * factor)))


def weighted_loss(
    student: Network,
    crops: Crops,
    precision: Precision,
    beta: float = 0.0,
    loss_of: Callable[[torch.Tensor], torch.Tensor] = squared,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 4: the sum over a batch of the loss of `w (y - s)`, by default its square, and of `(y - s)²` beside it.

    Where the crops have a teacher's outputs, beta times the loss of `T(x) - s` is added to the first sum, which makes
    it Eq. 10.
    """
    kind = dtype_of(precision)
    inputs, hr, importance = crops.inputs.to(kind), crops.hr.to(kind) / 255, crops.importance.to(kind)
    with autocast(precision, inputs.device):
        sr = student(inputs)
        error = hr - sr
    loss = loss_of(importance * error).sum()
    if crops.outputs is not None:
        loss = loss + beta * loss_of(crops.outputs.to(kind) - sr).sum()
    return loss, error.detach().square().sum()


def train_epoch(
    state: TrainState,
    bank: Bank,
    *,
    round: int,
    epoch: int,
    crops: int,
    group: Group,
    precision: Precision,
) -> EpochLog:
    """Train for one epoch: `ceil(crops / batch)` steps on the global batches of this round and epoch.

    Every worker contributes the crops on its own shards; gradients are summed, then clipped, as one flat vector. A GPU
    is waited for every `LOOK` steps and at the end alone.

    Raises:
        NonFiniteLossError: a loss or the norm of its gradient is not finite; the state is that before the first such
            step. Names the step, and shard and record of the first crop to blame.
    """
    config, started = state.config, time.perf_counter()
    steps = math.ceil(crops / config.batch)
    parameters = list(state.student.parameters())
    device, kind = parameters[0].device, dtype_of(precision)
    flat = torch.zeros(parameter_count(state.student) + 2, dtype=kind, device=device)
    gradients = _gradients(flat[:-2], parameters)
    told = torch.zeros(steps, 3, dtype=kind, device=device)  # loss, squared error and norm of the gradient of each step
    wrong = torch.zeros((), device=device)  # 1 from the first step on whose loss or gradient is not finite
    look = 1
    if apart(device):  # looking means waiting; meanwhile the device itself holds the steps that must not be taken
        look = LOOK
        state.hold(wrong)
    state.student.train()
    for step, batch in enumerate(bank.batches(round=round, epoch=epoch, steps=range(steps), batch=config.batch)):
        if len(batch.hr):
            loss, squared_error = weighted_loss(state.student, batch, precision, config.beta, state.loss_of)
            torch._foreach_copy_(gradients, torch.autograd.grad(loss, parameters))
            flat[-2:] = torch.stack([loss.detach(), squared_error])
        else:
            flat.zero_()
        group.sum(flat)
        norm = flat[:-2].norm()
        told[step, :2], told[step, 2] = flat[-2:], norm
        if look > 1:
            wrong.logical_or_(~torch.isfinite(norm + flat[-2]))
        if (step + 1) % look == 0 or step + 1 == steps:
            bad = _not_finite(told, step // look * look, step + 1)
            if bad is not None:
                counters = {"round": round, "epoch": epoch, "step": bad, "batch": config.batch}
                loss_then, _, norm_then = told[bad].tolist()
                raise NonFiniteLossError(
                    f"round {round}, epoch {epoch}, step {bad}: the loss is {loss_then}, the norm of its gradient "
                    f"{norm_then}; {_to_blame(state, bank, counters, group, precision)}"
                )
        flat[:-2] *= (config.clip / norm.clamp(min=1e-30)).clamp(max=1)
        for options in state.optimizer.param_groups:
            options["lr"] = learning_rate(config, schedule_progress(config, round, epoch + step / steps))
        state.optimizer.step()
    pixels = steps * config.batch * config.crop**2
    sums = np.add.accumulate(told[:, :2].double().cpu().numpy())[-1]  # step by step, which fixes the last bits
    loss_mean, error_mean = (sums / pixels).tolist()
    return EpochLog(
        round=round, epoch=epoch, loss=loss_mean, squared_error=error_mean,
        crops=steps * config.batch, seconds=time.perf_counter() - started, workers=group.size,
    )  # fmt: skip


def _gradients(flat: torch.Tensor, parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """Parts of a flat vector as the gradients of parameters, which have them as `grad` from then on.

    On a device each is laid out as its parameter, as fused optimizers need it.
    """
    gradients = []
    for parameter, part in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
        gradient = part.view_as(parameter)
        if apart(flat.device):
            gradient = part.as_strided(parameter.shape, parameter.stride())
        parameter.grad = gradient
        gradients.append(gradient)
    return gradients


def _not_finite(told: torch.Tensor, begin: int, end: int) -> int | None:
    """The first of some steps whose loss or norm of the gradient is not finite, from what `train_epoch` notes."""
    finite = torch.isfinite(told[begin:end, 2] + told[begin:end, 0]).tolist()
    return begin + finite.index(False) if False in finite else None


def silent_layers(
    state: TrainState, bank: Bank, *, round: int, epoch: int, group: Group, precision: Precision
) -> list[str]:
    """Which layer keeps a student from ever learning again; none of a student that can.

    A rectified layer whose maps are negative everywhere puts out nothing but zeros. Then it gets no gradient, and nor
    does any layer before it or, without biases, behind it. The student is dead: no training changes it any more.

    Args:
        round, epoch: say which crops are looked at; all count alike, whatever their importance.

    Returns:
        Name of the first convolution without a positive output, the same on all workers; of all weights where there is
        no such one.
    """
    batch = bank.crops(round=round, epoch=epoch, step=0, batch=max(PROBE, state.config.batch))
    layers = {name: layer for name, layer in state.student.named_modules() if isinstance(layer, nn.Conv2d)}
    positive, slope = torch.zeros(len(layers), dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def count(i: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: object, output: torch.Tensor) -> None:
            positive[i] += float((output > 0).sum())

        return hook

    hooks = [layer.register_forward_hook(count(i)) for i, layer in enumerate(layers.values())]
    try:
        if len(batch.hr):
            crops = replace(batch, importance=torch.ones_like(batch.importance), outputs=None)
            loss, _ = weighted_loss(state.student, crops, precision, loss_of=state.loss_of)
            slope += sum(float(g.abs().sum()) for g in torch.autograd.grad(loss, list(state.student.parameters())))
    finally:
        for hook in hooks:
            hook.remove()
    if group.sum(slope).item() > 0:
        return []
    silent = [name for name, total in zip(layers, group.sum(positive).tolist(), strict=True) if not total]
    return silent[:1] or [name for name, _ in state.student.named_parameters()]


def _to_blame(state: TrainState, bank: Bank, counters: dict[str, int], group: Group, precision: Precision) -> str:
    """Shard and record of the first crop in a global batch whose own loss is not finite."""
    blamed = torch.zeros(counters["batch"], 2, dtype=torch.float64)  # shard and record, both + 1, by place in the batch
    batch = bank.crops(**counters)
    for i, (place, shard, record) in enumerate(bank.sources(**counters)):
        crop = Crops(*(None if plane is None else plane[i : i + 1] for plane in vars(batch).values()))  # type: ignore[arg-type]
        with torch.no_grad():
            loss, _ = weighted_loss(state.student, crop, precision, state.config.beta, state.loss_of)
        if not torch.isfinite(loss):
            blamed[place] = torch.tensor([shard + 1, record + 1])
    found = group.sum(blamed).nonzero()
    if not len(found):
        return "every crop's own loss is finite: a smaller learning rate may help"
    shard, record = (int(number) - 1 for number in blamed[found[0, 0]])
    return f"first in shard {shard}, record {record}"
