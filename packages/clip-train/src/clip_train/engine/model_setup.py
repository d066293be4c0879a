"""A model made ready to train: locked towers, optimizer, EMA, loss scale, learned augmentation."""

from __future__ import annotations

from clip_models import CLIP, ConfigError
from clip_models.config import PoolingConfig

from clip_train.augment.range_augment import LearnedAugmentation
from clip_train.checkpoints.training_state import TrainingState
from clip_train.config.run import Config
from clip_train.distributed.batch_norm import synchronize_norms, trains_batch_norm
from clip_train.distributed.protocol import Backend
from clip_train.engine.data_components import DataComponents
from clip_train.model.tower_groups import SCALARS, lock_tower
from clip_train.model.towers import Towers
from clip_train.optim.ema import ExponentialMovingAverage
from clip_train.optim.loss_scale import LossScale
from clip_train.optim.optimizer import Optimizers


def make_towers(
    model: CLIP, augmentation: LearnedAugmentation | None, config: Config, backend: Backend
) -> Towers:
    """The module to call in training, not yet wrapped by the backend.

    Raises:
        ConfigError: The model and the config do not go together.
    """
    settings, train = config.model, config.train
    if settings.lock_image:
        lock_tower(model, "image", unlocked_groups=settings.unlocked_image_groups)
    if settings.lock_text:
        lock_tower(model, "text", unlocked_groups=settings.unlocked_text_groups)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if trained <= set(SCALARS):
        raise ConfigError("both towers are locked and nothing is left to train; unlock some groups")
    if trains_batch_norm(model):
        if train.grad_accum_steps > 1:
            raise ConfigError(
                "train.grad_accum_steps computes a batch in micro-batches, and BatchNorm layers "
                "would see the statistics of each one, twice; use grad_accum_steps = 1, or a model "
                "without them"
            )
        synchronize_norms(model, backend)
    if backend.needs_fixed_shapes:
        _check_xla_support(model, config)
    if train.gradient_checkpointing:
        model.set_gradient_checkpointing(True)
    towers = Towers(model, augmentation)
    if train.compile:
        towers.compile(backend=train.compile)
    return towers


def _check_xla_support(model: CLIP, config: Config) -> None:
    """Refuse shapes that follow the data, which XLA would compile again, and what is untested."""
    train, towers = config.train, (model.config.vision, model.config.text)
    reasons = {
        "loss.kind 'multi_positive' has as many candidates as a batch has distinct captions, and "
        "XLA compiles every new shape; use 'infonce' or 'sigmoid'": (
            config.loss.kind == "multi_positive"
        ),
        "token pooling makes as many segments as the data says, and XLA compiles every new shape; "
        "use model.vision.patch_reduction or tokenizer.reduction": any(
            isinstance(getattr(tower, "pooling", None), PoolingConfig) for tower in towers
        ),
        "train.gradient_checkpointing does not work on XLA; use train.grad_accum_steps": (
            train.gradient_checkpointing
        ),
        "train.compile is for other backends: XLA compiles every step": bool(train.compile),
        "train.precision 'fp16' has not been tried on XLA; use 'bf16' or 'fp32'": (
            train.precision == "fp16"
        ),
        "optim.name 'muon' has not been tried on XLA; use 'adamw'": config.optim.name == "muon",
        "optim.convolutions and optim.biases have not been tried on XLA; leave their names empty": (
            bool(config.optim.convolutions.name or config.optim.biases.name)
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise ConfigError(reason)


def make_augmentation(
    config: Config, data: DataComponents, backend: Backend
) -> LearnedAugmentation | None:
    """The augmentation that is trained with the model, if the config asks for it.

    Raises:
        ConfigError: The backend or the teacher cannot go with it.
    """
    if not config.augment.range.enabled:
        return None
    if backend.needs_fixed_shapes or backend.name == "fsdp2":
        raise ConfigError(
            f"augment.range does not work with backend {backend.name!r}; use 'single' or 'ddp'"
        )
    if config.loss.teacher:
        raise ConfigError("augment.range changes images that loss.teacher would not see changed")
    augmentation = LearnedAugmentation(
        config.augment.range, data.preprocess.config, data.total_steps
    )
    return augmentation.to(backend.device)


def make_training_state(
    model: CLIP, augmentation: LearnedAugmentation | None, data: DataComponents, backend: Backend
) -> TrainingState:
    """All that a checkpoint holds, before the first step; the backend has wrapped the model.

    Raises:
        ConfigError: The optimizer cannot work on the backend.
    """
    config = data.config
    if config.optim.name == "muon" and backend.name == "fsdp2":
        raise ConfigError("optim.name 'muon' needs unsharded matrices; use train.backend 'ddp'")
    if config.optim.convolutions.name and backend.name == "fsdp2":
        raise ConfigError("optim.convolutions needs unsharded filters; use train.backend 'ddp'")
    optimizers = Optimizers(model, config.optim, augmentation, on_xla=backend.needs_fixed_shapes)
    decay = config.optim.ema_decay
    ema = None if decay is None else ExponentialMovingAverage(model, decay)
    if backend.needs_fixed_shapes:  # so that the first step is the same program as all others
        optimizers.initialize()
        backend.end_step()
    return TrainingState(
        backend=backend,
        model=model,
        augmentation=augmentation,
        preprocess=data.preprocess.config,
        optimizers=optimizers,
        ema=ema,
        loss_scale=LossScale() if config.train.precision == "fp16" else None,
    )
