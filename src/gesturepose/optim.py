"""Adam and the fall of its learning rate (Sec. 4: "10 times reduction when the loss is saturated")."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from gesturepose.params import FinetuneSettings

_TENFOLD = 0.1


def build_optimiser(network: nn.Module, settings: FinetuneSettings) -> Optimizer:
    """Adam over every parameter."""
    return Adam(network.parameters(), lr=settings.learning_rate, fused=True)


class LearningRate:
    """The schedule, asked once after each epoch.

    `plateau`: tenfold less when the training loss has not fallen for more than `patience` epochs; done below
    `stop_below`.
    `step`: tenfold less after fixed shares of the epochs, for runs that are compared with each other.
    """

    def __init__(self, optimiser: Optimizer, settings: FinetuneSettings) -> None:
        self.optimiser = optimiser
        self.settings = settings
        self.schedule: ReduceLROnPlateau | MultiStepLR
        if settings.schedule == "plateau":
            self.schedule = ReduceLROnPlateau(optimiser, factor=_TENFOLD, patience=settings.patience)
        else:
            milestones = [math.ceil(share * settings.epochs) for share in settings.steps_at]
            self.schedule = MultiStepLR(optimiser, milestones=milestones, gamma=_TENFOLD)

    @property
    def value(self) -> float:
        """The present rate."""
        return float(self.optimiser.param_groups[0]["lr"])

    def after_epoch(self, training_loss: float) -> bool:
        """Take the epoch's mean training loss; True where training is done before its last epoch."""
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(training_loss)
            return self.value < self.settings.stop_below
        self.schedule.step()
        return False

    def state_dict(self) -> dict[str, object]:
        return {key: value for key, value in self.schedule.state_dict().items() if not torch.is_tensor(value)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.schedule.load_state_dict(state)
