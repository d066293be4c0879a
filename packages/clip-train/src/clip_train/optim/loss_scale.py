"""The factor that keeps fp16 gradients from vanishing (Micikevicius et al. 2018, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
SMALLEST_SCALE = 2.0**-14


@dataclass
class LossScale:
    """Halves when a gradient overflows, doubles after 2000 steps without overflow.

    It follows the norm of the whole gradient, which all ranks know, so that all of them skip the
    same steps, with sharded parameters too.
    """

    value: float = INITIAL_SCALE
    good_steps: int = 0

    def update(self, *, finite: bool) -> None:
        """Adapt to a step, which was skipped if its gradient was not finite."""
        if not finite:
            self.value, self.good_steps = self.value / 2, 0
            return
        self.good_steps += 1
        if self.good_steps == GROWTH_INTERVAL:
            self.value, self.good_steps = self.value * 2, 0

    @property
    def is_exhausted(self) -> bool:
        """Whether no smaller factor can help: the loss itself is not finite."""
        return self.value < SMALLEST_SCALE
