"""Gradients of several subnets of one supernet, on a run's batches, losses and backends.

n images and u texts of a rank, E embedding width.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from osf_supernet import Supernet
from osf_supernet.training import average_gradients, frozen_statistics, sandwich_configs
from torch import Tensor

from clip_train.config.supernet import SupernetSettings
from clip_train.distributed.protocol import Backend
from clip_train.engine.gradients import WholeBatchGradient
from clip_train.model.towers import Towers
from clip_train.objectives.batch import Embeddings, Objective, StepInputs
from clip_train.objectives.candidates import Candidates
from clip_train.objectives.losses import distillation_loss


class SandwichGradient(WholeBatchGradient):
    """The mean over a step's subnets, the largest first.

    The largest learns from the loss that the config asks for; of the others' loss the share
    `distill` is instead what the largest made of the same batch (universally slimmable networks,
    Yu and Huang 2019): its distributions over the whole batch, at its own logit scale, and its
    embeddings.
    """

    def __init__(
        self,
        net: Supernet,
        towers: Towers,
        backend: Backend,
        settings: SupernetSettings,
        *,
        seed: int = 0,
        grad_accum_steps: int = 1,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Prepare the gradient of a step.

        Args:
            net: The supernet.
            towers: Its model's, not wrapped by the backend: gradients are averaged over ranks once,
                after all subnets.
            backend: One process, or several that hold all parameters.
            settings: Which subnets, and how much they learn from the largest.
            seed: The run's; with the number of the step it says which subnets are sampled.
            grad_accum_steps: As in `WholeBatchGradient`.
            autocast: As in `WholeBatchGradient`.
        """
        super().__init__(towers, backend, grad_accum_steps=grad_accum_steps, autocast=autocast)
        self.net, self.settings, self.seed = net, settings, seed
        self._step = 0
        self._last_loss = torch.tensor(0.0)  # () this rank's share, without distillation

    def set_step(self, step: int) -> None:
        """The number of the next step, from which its subnets follow."""
        self._step = step

    def compute(
        self, inputs: StepInputs, objective: Objective, *, loss_scale: float = 1.0
    ) -> dict[str, Tensor]:
        """Gradients times `loss_scale` into `.grad`; this rank's share () of the mean losses."""
        configs = sandwich_configs(
            self.net, self._step, num_random=self.settings.num_random, seed=self.seed
        )
        found: list[Embeddings] = []
        means: dict[str, Tensor] = {}
        records: dict[str, Tensor] = {}
        for number, config in enumerate(configs):
            subnet_objective = self._subnet_objective(found, objective)
            # Running statistics are the largest's; subnets get theirs when they are extracted.
            statistics = frozen_statistics(self.net.model) if number else nullcontext()
            with statistics, self.net.training(config):
                share = loss_scale / len(configs)
                losses = super().compute(inputs, subnet_objective, loss_scale=share)
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss / len(configs)
            if number < 2:
                records[f"supernet/{('largest', 'smallest')[number]}"] = self._last_loss
            if not number:
                records |= self.records
        average_gradients(self.net.model)
        self.records = records
        return means

    def _subnet_objective(self, found: list[Embeddings], objective: Objective) -> Objective:
        """The objective of the next subnet; the first one leaves its embeddings in `found`."""
        if not found:

            def teaching(student: Embeddings, candidates: Candidates) -> dict[str, Tensor]:
                images, texts, scale, bias = student
                known = images.detach(), texts.detach(), scale.detach()
                found.append(Embeddings(*known, None if bias is None else bias.detach()))
                return self._note_loss(objective(student, candidates))

            return teaching
        (teacher,), share = found, self.settings.distill

        def learning(student: Embeddings, candidates: Candidates) -> dict[str, Tensor]:
            own = self._note_loss(objective(student, candidates))
            losses = {name: (1 - share) * loss for name, loss in own.items()}
            losses["in_place"] = share * self._distillation(student, teacher, candidates)
            return losses

        return learning

    def _note_loss(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keep the sum of the losses for the log, and return them unchanged."""
        self._last_loss = torch.stack([loss.detach() for loss in losses.values()]).sum()
        return losses

    def _distillation(
        self, student: Embeddings, teacher: Embeddings, candidates: Candidates
    ) -> Tensor:
        """This rank's share () of the distance from the teacher's distributions and embeddings."""
        logits = distillation_loss(
            *student[:3], *teacher[:3], candidates, communicator=self.backend
        )
        owned = candidates.owned
        images = 1 - (student.images * teacher.images).sum(dim=1)  # (n,)
        texts = 1 - (student.texts[owned] * teacher.texts[owned]).sum(dim=1)  # (m,)
        distance = images.sum() / candidates.num_images + texts.sum() / candidates.num_captions
        return logits + self.settings.embedding * distance / 2
