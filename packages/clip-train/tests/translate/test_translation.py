"""Other systems' runs in our words: what is said, what cannot be, and what is not understood."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from clip_models import ConfigError
from clip_train.cli.main import main
from clip_train.config.data import DataConfig, VariableSizesConfig
from clip_train.config.presets import load_config, parse_config
from clip_train.translate.translation import translate

OPEN_CLIP = """
--train-data shards/{0000..0099}.tar --dataset-type webdataset --imagenet-val /data/val
--model ViT-B-16 --batch-size 256 --accum-freq 2 --epochs 32 --warmup 2000 --lr 1e-3 --wd 0.1
--beta2 0.95 --eps 1e-6 --precision amp_bf16 --workers 8 --grad-clip-norm 1.0 --local-loss
--gather-with-grad --grad-checkpointing --lr-scheduler const-cooldown --epochs-cooldown 3
--aug-cfg scale=(0.4,1.0) color_jitter=(0.32,0.32,0.32,0.08) color_jitter_prob=0.8
--force-image-size 112 --force-patch-dropout 0.5 --save-frequency 1 --my-own-flag 7
"""


def test_an_open_clip_command_line() -> None:
    found = translate("open_clip", OPEN_CLIP.split(), processes=8, lenient=True)
    config = parse_config(found.toml, source="translated")
    assert config.data.train == "wds:shards/{0000..0099}.tar"
    assert config.data.val == "imagefolder:/data/val"
    assert config.model.name == "ViT-B-16"
    assert config.model.vision == {
        "image_size": 112,
        "patch_reduction": {"kind": "random", "keep_ratio": 0.5},
    }
    assert (config.train.batch_size, config.train.grad_accum_steps) == (256 * 2 * 8, 2)
    assert (config.train.epochs, config.train.precision) == (32.0, "bf16")
    assert config.train.gradient_checkpointing
    assert config.optim.betas == (0.9, 0.95)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.clip_norm) == (1e-3, 0.1, 1.0)
    assert (config.optim.schedule, config.optim.warmup_steps) == ("constant_cooldown", 2000)
    assert config.loss.kind == "infonce"
    assert config.augment.scale == (0.4, 1.0)
    assert config.augment.color_jitter == (0.32, 0.32, 0.32, 0.08)
    left = "\n".join(found.without_counterpart)
    assert "local-loss True: the gradient is always that of the whole batch" in left
    assert "my-own-flag 7: unknown flag or key" in left
    assert "save-frequency 1: counts epochs" in left
    assert tomllib.loads(found.text()) == tomllib.loads(found.toml)


def test_differing_defaults_are_written() -> None:
    config = parse_config(translate("open_clip", ["--model", "RN50"]).toml, source="translated")
    assert (config.train.batch_size, config.train.epochs, config.optim.warmup_steps) == (
        64,
        32,
        10000,
    )
    assert config.loss.kind == "infonce"
    assert config.train.precision == "fp16"
    assert (config.augment.kind, config.augment.scale) == ("random_resized_crop", (0.9, 1.0))


@pytest.mark.parametrize(
    ("words", "betas", "eps"),
    [
        ("", (0.9, 0.999), 1e-8),
        ("--beta2 0.95 --model RN50", (0.9, 0.95), 1e-8),
        ("--model ViT-B-32", (0.9, 0.98), 1e-6),
    ],
)
def test_adamw_defaults_depend_on_the_model(
    words: str, betas: tuple[float, float], eps: float
) -> None:
    optim = parse_config(translate("open_clip", words.split()).toml, source="translated").optim
    assert (optim.betas, optim.eps) == (betas, eps)


@pytest.mark.parametrize(
    ("words", "source"),
    [
        ("--train-data X --dataset-type tfrecord", "tfrecord:X"),
        ("--train-data X.csv", "csv:X.csv"),
        ("--train-data a.tar::b.tar --dataset-type webdataset", "wds:a.tar::wds:b.tar"),
        ("--train-data X --dataset-type synthetic", ""),
    ],
)
def test_the_dataset_type_becomes_a_prefix(words: str, source: str) -> None:
    found = translate("clipa", words.split(), lenient=True)
    assert parse_config(found.toml, source="translated").data.train == source
    assert source or "train-data X: no counterpart; expected one of" in found.text()


def test_values_without_counterpart_are_listed() -> None:
    words = ["--model", "ViT-B-32", "--precision", "pure_bf16", "--batch-size", "$B"]
    words += ["--aug-cfg", "use_timm=True", "scale=(0.4, 1.0)", "color_jitter=0.4"]
    found = translate("open_clip", words, lenient=True)
    config = parse_config(found.toml, source="translated")
    assert (config.model.name, config.augment.scale) == ("ViT-B-32", (0.4, 1.0))
    left = "\n".join(found.without_counterpart)
    assert "precision pure_bf16: no counterpart; expected one of fp32" in left
    assert "no counterpart of use_timm=True, color_jitter=0.4" in left
    assert "batch-size $B: no counterpart; invalid literal" in left


def test_a_clipa_script_with_spaces_in_tuples(tmp_path: Path) -> None:
    """Tuples with blanks inside, and a model that implies a reduction, as CLIPA writes them."""
    script = tmp_path / "i37_t8_pretrain.sh"
    script.write_text(
        "torchrun --nproc_per_node 8 -m training.main \\\n  --train-data '/path/to/laion-400m' "
        "--dataset-type tfrecord \\\n  --aug-cfg scale='(0.4, 1.0)' color_jitter="
        "'(0.32, 0.32, 0.32, 0.08)' color_jitter_prob=0.8 gray_scale_prob=0.2 \\\n"
        "  --model ViT-L-16-CL8-Syntax-GAP --force-image-size 96 --pos-embed 'sin_cos_2d' \\\n"
        "  --lr 1.024e-3 --beta1 0.9 --beta2 0.95 --precision 'amp_bf16' --batch-size 4096\n"
    )
    found = translate("clipa", [str(script)], processes=8)
    config, preset = (
        parse_config(found.toml, source="translated"),
        load_config("clipa-l16-i37-t8"),
    )
    assert (config.model, config.tokenizer) == (preset.model, preset.tokenizer)
    assert (config.augment, config.optim.betas) == (preset.augment, preset.optim.betas)
    assert config.data.train == "tfrecord:/path/to/laion-400m"


def test_a_clipa_script(tmp_path: Path) -> None:
    script = tmp_path / "pretrain.sh"
    script.write_text(
        "# eight GPUs\ntorchrun --nproc_per_node 8 -m training.main \\\n  --model ViT-L-16 "
        "--to-float-on-device \\\n  --pos-embed sin_cos_2d --zeroshot-steps 1526 --lr 1.024e-3\n"
    )
    found = translate("clipa", [str(script)], processes=8)
    config = parse_config(found.toml, source="translated")
    assert config.model.vision == {"position": "sin_cos"}
    assert (config.eval.every_steps, config.optim.lr) == (1526, 1.024e-3)
    assert any(line.startswith("to-float-on-device") for line in found.without_counterpart)


def test_a_corenet_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "clip.yaml"
    recipe.write_text(
        "common:\n  mixed_precision: true\n  accum_freq: 2\ndataset:\n  train_batch_size0: 256\n"
        "  workers: -1\noptim:\n  name: adamw\n  weight_decay: 0.2\n  adamw:\n    beta2: 0.98\n"
        "scheduler:\n  name: cosine\n  max_iterations: 200000\n  warmup_iterations: 10000\n"
        "  cosine:\n    max_lr: 0.001\n    min_lr: 1.0e-6\n"
        "ema:\n  enable: true\n  momentum: 0.0005\n"
        "stats:\n  val: [top1]\n"
    )
    found = translate("corenet", [str(recipe)], processes=4)
    config = parse_config(found.toml, source="translated")
    assert (config.train.steps, config.train.batch_size) == (200000, 256 * 2 * 4)
    assert (config.optim.lr, config.optim.final_lr) == (1e-3, 1e-6)
    assert config.optim.ema_decay == pytest.approx(0.9995)
    assert config.train.precision == "fp16"
    assert any(line.startswith("stats.val") for line in found.without_counterpart)


def test_corenet_variable_sizes(tmp_path: Path) -> None:
    recipe = tmp_path / "clip.yaml"
    sizes = "  vbs:\n    crop_size_width: 192\n    max_n_scales: 3\n    min_crop_size_width: 128\n"
    sizes += "    max_crop_size_width: 256\n    check_scale: 16\n"
    recipe.write_text(f"sampler:\n  name: variable_batch_sampler\n{sizes}")
    config = parse_config(
        translate("corenet", [str(recipe)], processes=4).toml, source="translated"
    )
    assert config.data.variable_sizes == VariableSizesConfig(
        num_sizes=3, min_size=128, max_size=256, divisor=16, batch_multiple=4
    )
    assert config.model.vision == {"image_size": 192}
    recipe.write_text(f"sampler:\n  name: batch_sampler\n{sizes}")
    found = translate("corenet", [str(recipe)], processes=4)
    assert parse_config(found.toml, source="translated").data == DataConfig()
    assert "check_scale 16: used by variable_batch_sampler only" in found.text()


@pytest.mark.parametrize(
    ("text", "decay", "precision"),
    [
        ("ema: {enable: false, momentum: 0.0005}", None, "fp32"),
        ("ema: {momentum: 0.0005}", None, "fp32"),
        ("ema: {enable: true}", 0.9999, "fp32"),
        ("common: {mixed_precision: false, mixed_precision_dtype: float16}", None, "fp32"),
        ("common: {mixed_precision_dtype: bfloat16, mixed_precision: true}", None, "bf16"),
        ("optim: {name: sgd}", None, "fp32"),
    ],
)
def test_disabled_features_of_corenet(
    tmp_path: Path, text: str, decay: float | None, precision: str
) -> None:
    recipe = tmp_path / "clip.yaml"
    recipe.write_text(text)
    found = translate("corenet", [str(recipe)], lenient=True)
    config = parse_config(found.toml, source="translated")
    assert (config.optim.ema_decay, config.train.precision) == (decay, precision)
    sgd = "optim.name sgd: no counterpart; expected one of adamw"
    assert (sgd in found.without_counterpart) == ("sgd" in text)


def test_an_osf_command_line() -> None:
    """Every flag of its script, as it is written there."""
    words = "--model clip --dataset cifar10 --num_shards 20 --lr 3e-5 --batch_size 32 "
    words += "--log_interval 5 --elastic_config space.json --save_dir out/ --huggingface_token T"
    found = translate("osf", words.split(), processes=2)
    config = parse_config(found.toml, source="translated")
    assert config.model.pretrained == "hf-hub:openai/clip-vit-base-patch32"
    assert (config.data.train, config.data.val) == ("cifar10", "cifar10")
    assert (config.optim.lr, config.train.batch_size, config.train.epochs) == (3e-5, 64, 500.0)
    assert config.log.every_steps == 5
    assert found.command == "clip-train supernet THIS.toml --out out/ --space space.json"
    assert f"# Run it with: {found.command}\n" in found.text()
    left = "\n".join(found.without_counterpart)
    assert "num-shards 20: each step trains several subnets" in left
    assert "--token T" in left
    assert len(found.without_counterpart) == 2


@pytest.mark.parametrize(
    ("words", "key", "message"),
    [
        ("--model vit", "", "model vit: `osf train`"),
        ("--model org/clip", 'pretrained = "hf-hub:org/clip"', ""),
        ("--model ./run", 'pretrained = "./run"', ""),
        ("--dataset Food101", "", "dataset Food101: needs class folders"),
        ("--dataset sst2", "", "dataset sst2: a text task"),
        ("--spp", "", "spp True: unused by the scripts"),
    ],
)
def test_values_of_osf_flags(words: str, key: str, message: str) -> None:
    found = translate("osf", words.split(), lenient=True)
    assert key in found.toml
    assert message in "\n".join(found.without_counterpart)
    assert found.command.endswith("--out ckpts/")


@pytest.mark.parametrize(
    ("system", "words", "message"),
    [
        ("open_clip", ["absent.sh"], "absent.sh cannot be read: No such file or directory"),
        ("corenet", ["absent.yaml"], "absent.yaml cannot be read: No such file or directory"),
        ("openclip", [], "unknown system 'openclip'; did you mean 'open_clip'"),
        ("open_clip", ["--lr", "-1"], "lr must be positive"),
    ],
)
def test_errors(system: str, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(system, words)


def test_an_invalid_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("a: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml cannot be read"):
        translate("corenet", [str(file)])


def test_the_command_prints_toml_with_comments(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["translate", "open_clip", "--processes", "2", "--lenient", "--", "--model", "RN50"]
    words += ["--opt", "lamb"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert tomllib.loads(printed)["train"]["batch_size"] == 128
    assert "# opt lamb: " in printed
    assert main(["translate", "nothing"]) == 2


def test_the_file_may_follow_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "train.sh"
    script.write_text("python -m training.main --model ViT-B-16 --batch-size 4\n")
    for words in (["--processes", "2", str(script)], [str(script), "--processes", "2"]):
        assert main(["translate", "clipa", *words]) == 0
        assert tomllib.loads(capsys.readouterr().out)["train"]["batch_size"] == 8
    assert main(["translate", "clipa", "--model", "ViT-B-16", "--processes", "2"]) == 0
    assert tomllib.loads(capsys.readouterr().out)["train"]["batch_size"] == 128  # without a --
