"""Published recipes and command lines of the five systems give the runs that they describe."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from clip_models import ConfigError
from clip_train.cli.main import main
from clip_train.config.presets import load_config, parse_config
from clip_train.config.run import Config
from clip_train.translate.command_lines import read_command
from clip_train.translate.translation import translate

CORENET = """
common:
  run_label: train
  log_freq: 500
  auto_resume: true
  mixed_precision: true
  save_interval_freq: 5000
dataset:
  name: img_text_tar
  category: multi-modal-image-text
  train_batch_size0: 256
  val_batch_size0: 4
  eval_batch_size0: 4
  workers: {workers}
  persistent_workers: true
  pin_memory: true
  multi_modal_img_text:
    zero_shot_img_cls_dataset_name: imagenet
    context_length: 77
    img_text_tar:
      metadata_file: /data/pairs/metadata.pkl
text_tokenizer:
  name: openai_clip
  openai_clip:
    bpe_path: https://example.org/bpe_simple_vocab_16e6.txt.gz
image_augmentation:
  random_resized_crop:
    enable: true
    scale: [0.9, 1.0]
    interpolation: bilinear
  resize: {{enable: true, size: 224, interpolation: bilinear}}
  center_crop: {{enable: true, size: 224}}
sampler:
  name: variable_batch_sampler
  use_shards: true
  disable_shuffle_sharding: false
  start_shuffling_from_epoch: 1
  vbs:
    crop_size_width: 224
    crop_size_height: 224
    max_n_scales: 5
    scale_inc: false
    min_crop_size_width: 160
    max_crop_size_width: 320
    min_crop_size_height: 160
    max_crop_size_height: 320
    check_scale: 32
model:
  multi_modal_image_text:
    name: clip
    lr_multiplier_img_encoder: 1.0
    lr_multiplier_text_encoder: 1.0
    clip:
      projection_dim: 512
      cache_text_features_zero_shot: true
  image_projection_head:
    name: simple_projection_nc2nc
    lr_multiplier: 1.0
  classification:
    name: vit
    vit:
      mode: base
      norm_layer: layer_norm_fp32
    activation: {{name: gelu}}
  text:
    name: transformer
    transformer:
      causal_masking: true
      model_dim: 512
      n_transformer_layers: 12
      ffn_multiplier_per_layer: 4.0
      n_heads_per_layer: 8
      norm_layer: layer_norm_fp32
{range}
  normalization: {{name: batch_norm, momentum: 0.1}}
  activation: {{name: gelu}}
  activation_checkpointing: true
  layer: {{global_pool: mean, conv_init: kaiming_normal, linear_init: trunc_normal}}
optim:
  name: adamw
  weight_decay: 0.2
  no_decay_bn_filter_bias: true
  adamw: {{beta1: 0.9, beta2: 0.98, eps: 1.0e-6, amsgrad: false}}
scheduler:
  name: cosine
  is_iteration_based: true
  max_iterations: {steps}
  warmup_iterations: {warmup}
  warmup_init_lr: 1.0e-6
  cosine: {{max_lr: {lr}, min_lr: 1.0e-6}}
loss:
{loss}
stats:
  val: [top1]
  train: [loss, grad_norm]
  checkpoint_metric: top1.zero_shot_image_logits
  checkpoint_metric_max: true
ema: {{enable: true, momentum: 0.0005}}
ddp: {{enable: true, rank: 0, dist_port: 30786}}
"""
PLAIN = {
    "steps": 200000,
    "warmup": 10000,
    "lr": 0.001,
    "workers": 10,
    "range": "",
    "loss": "  category: clip",
}
RANGE = {
    "steps": 150000,
    "warmup": 1000,
    "lr": 0.0005,
    "workers": 16,
    "range": "  learn_augmentation: {mode: distribution, brightness: true, contrast: true, "
    "noise: true, lr_multiplier: 1.0}",
    "loss": "  category: composite_loss\n  composite_loss:\n"
    "    - {loss_category: neural_augmentation, loss_weight: 1.0, neural_augmentation: "
    "{perceptual_metric: psnr, target_value: [40, 20], curriculum_method: cosine, alpha: 100.0}}\n"
    "    - {loss_category: clip, loss_weight: 1.0}",
}


def as_preset(config: Config) -> Config:
    """Without what a preset leaves to its user: the data, and how often it is evaluated."""
    data = replace(config.data, train="", val="")
    return replace(config, description="", data=data, eval=Config().eval)


@pytest.mark.parametrize(
    ("values", "preset"), [(PLAIN, "corenet-vit-b16"), (RANGE, "corenet-range-augment")]
)
@pytest.mark.parametrize("by", ["file", "command"])
def test_corenet_s_recipes_are_the_presets(
    tmp_path: Path, values: dict[str, object], preset: str, by: str
) -> None:
    recipe = tmp_path / "clip_vit_base.yaml"
    recipe.write_text(CORENET.format(**values))
    words = [str(recipe)]
    if by == "command":
        words = ["corenet-train", "--common.config-file", str(recipe)]
        words += ["--common.results-loc", "results"]
    found = translate("corenet", words, processes=256)
    config = parse_config(found.toml, source="translated")
    assert config.data.train == "corenet:/data/pairs"
    expected = load_config(preset)
    model = replace(expected.model, preprocess=config.model.preprocess)  # the name's own
    assert as_preset(config) == as_preset(replace(expected, model=model))
    assert len(found.without_counterpart) > 10  # settings of validation and of the machine


def test_corenet_s_recipe_with_the_keys_of_the_released_one(tmp_path: Path) -> None:
    recipe = {
        "taskname": "+ CLIP-ViT-B/16",
        "_anchor_context_length": 77,
        "dataset": {
            "collate_fn_name_train": "multi_modal_img_text_collate_fn",
            "multi_modal_img_text": {"img_text_tar": None},
        },
        "loss": {
            "category": "composite_loss",
            "composite_loss": [
                {
                    "loss_category": "multi_modal_image_text",
                    "loss_weight": 1.0,
                    "multi_modal_image_text": {"name": "contrastive_loss_clip"},
                },
                {
                    "loss_category": "neural_augmentation",
                    "neural_augmentation": {"target_value": [40, 20]},
                },
            ],
        },
        "model": {"activation": {"name": "gelu", "inplace": True}},
    }
    (tmp_path / "clip.yaml").write_text(json.dumps(recipe))
    script = tmp_path / "train.sh"
    script.write_text(f"corenet-train --common.config-file {tmp_path}/clip.yaml\n")
    found = translate("corenet", [str(script)])
    assert found == translate("corenet", [str(tmp_path / "clip.yaml")])
    config = parse_config(found.toml, source="translated")
    assert (config.loss.kind, config.augment.range.target_psnr) == ("infonce", (40.0, 20.0))
    recipe["loss"]["composite_loss"][0]["multi_modal_image_text"]["name"] = "siglip"
    (tmp_path / "clip.yaml").write_text(json.dumps(recipe))
    with pytest.raises(ConfigError, match="no counterpart of the loss 'siglip'"):
        translate("corenet", [str(script)])


def test_fast_clip_s_baseline_and_its_own_losses() -> None:
    words = [
        "--train-data",
        "d.tar",
        "--data_size",
        "100",
        "--profile",
        "--model",
        "RN50",
        "--lr",
        "1e-3",
    ]
    config = parse_config(translate("fast_clip", words).toml, source="translated")
    assert config.optim.lr == 1e-3
    with pytest.raises(ConfigError, match="only its OpenCLIP baseline"):
        translate("fast_clip", [*words, "--fastclip", "--lr_tau", "2e-4"])


def test_corenet_s_overrides_win(tmp_path: Path) -> None:
    recipe = tmp_path / "clip.yaml"
    recipe.write_text("scheduler: {max_iterations: 10}\nmodel: {classification: {name: vit}}")
    command = f"corenet-train --common.config-file {recipe} --scheduler.max-iterations 20 "
    command += "--common.override-kwargs scheduler.max_iterations=30 optim.adamw.beta2=0.95"
    config = parse_config(translate("corenet", [command]).toml, source="translated")
    assert (config.train.steps, config.optim.betas[1]) == (30, 0.95)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.classification.vit.mode", "gigantic", "expected one of tiny, small, base, large"),
        ("model.multi_modal_image_text.clip.projection_dim", 256, "other values are not supported"),
        ("model.learn_augmentation", {"mode": "distribution", "noise": True}, "together"),
        ("loss", {"category": "cross_entropy"}, "expected one of clip"),
        ("model.text.transformer.causal_masking", False, "other values"),
        ("optim", {"name": "sgd"}, "expected one of adamw"),
        ("something.new", 1, "unknown flag or key"),
    ],
)
def test_what_changes_corenet_s_result_is_an_error(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    for part in reversed(key.split(".")):
        value = {part: value}
    (tmp_path / "clip.yaml").write_text(json.dumps(value))
    with pytest.raises(ConfigError, match=message):
        translate("corenet", [str(tmp_path / "clip.yaml")])
    found = translate("corenet", [str(tmp_path / "clip.yaml")], lenient=True)
    assert message in found.text()


CLIPA = {
    "i37_t8": ("clipa-l16-i37-t8", "ViT-L-16-CL8-Syntax-GAP", 96, 4096, "1.024e-3", 1563),
    "i17_t16": ("clipa-l16-i17-t16", "ViT-L-16-CL16-Syntax-GAP", 64, 4096, "1.024e-3", 1563),
}
JITTER = "--aug-cfg scale='(0.4, 1.0)' color_jitter='(0.32, 0.32, 0.32, 0.08)' "
JITTER += "color_jitter_prob=0.8 gray_scale_prob=0.2"


@pytest.mark.parametrize("script", CLIPA)
@pytest.mark.parametrize(
    "launcher",
    [
        "TORCH_CUDNN_V8_API_ENABLED=1 TFDS_PREFETCH_SIZE=8192 torchrun --nproc_per_node 8 -m "
        "training.main",
        "torchrun --nproc-per-node=4 --nnodes=2 -m training.main",
        "python -m torch.distributed.launch --nproc_per_node=8 training/main.py",
        "srun --ntasks 8 python -u -m training.main",
        "srun -N 2 --ntasks-per-node=4 python src/training/main.py",
    ],
)
def test_clipa_s_scripts_are_the_presets(tmp_path: Path, script: str, launcher: str) -> None:
    preset, model, size, batch, lr, warmup = CLIPA[script]
    file = tmp_path / f"{script}_pretrain.sh"
    file.write_text(
        f"# pre-training\nDATA=/path/to/laion\n{launcher} \\\n --save-frequency 1 "
        "--train-data ${DATA} --dataset-type tfrecord \\\n"
        f" {JITTER} --model {model} --force-image-size {size} --pos-embed 'sin_cos_2d' \\\n"
        f" --warmup {warmup} --batch-size {batch} --lr {lr} --beta1 0.9 --beta2 0.95 --wd 0.2 "
        "--epochs 6 --workers 6 --precision amp_bf16 --local-loss --gather-with-grad --seed 0 "
        "--ddp-static-graph --grad-checkpointing --to-float-on-device --log-every-n-steps 32\n"
    )
    config = parse_config(translate("clipa", [str(file)]).toml, source="translated")
    expected = load_config(preset)
    for section in ("model", "tokenizer", "augment", "loss"):
        assert getattr(config, section) == getattr(expected, section), section
    assert config.train.batch_size == expected.train.batch_size == 8 * batch
    assert (config.train.epochs, config.train.precision) == (6, "bf16")
    assert config.optim.lr == expected.optim.lr
    assert config.optim.betas == expected.optim.betas
    assert config.data.train == "tfrecord:/path/to/laion"


def test_a_share_of_an_epoch_in_samples() -> None:
    words = "--train-data D --dataset-type tfrecord --epochs 1 --train-num-samples 131072000"
    config = parse_config(translate("clipa", words.split()).toml, source="translated")
    assert (config.train.samples, config.train.epochs) == (131_072_000, None)
    words = "--train-data t.csv --epochs 3 --train-num-samples 1000"
    config = parse_config(translate("open_clip", words.split()).toml, source="translated")
    assert (config.train.samples, config.train.epochs) == (None, 3)  # counted in the table
    words = "--train-data t.csv --epochs 3 --lr-scheduler const-cooldown --epochs-cooldown 1"
    config = parse_config(translate("open_clip", words.split()).toml, source="translated")
    assert config.optim.cooldown_epochs == 1
    words = "--train-data s/{0..9}.tar --dataset-type webdataset --epochs 30 "
    words += "--train-num-samples 1000 --lr-scheduler const-cooldown --epochs-cooldown 3"
    config = parse_config(translate("open_clip", words.split()).toml, source="translated")
    assert (config.train.samples, config.optim.cooldown_samples) == (30_000, 3000)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (
            "python -m training.main --model ViT-L-16-CL32-GAP --pretrained i37.pt "
            "--imagenet-val /data/val --to-float-on-device",
            "clip-models convert i37.pt --to clip-models --out model "
            "--model ViT-L-16-CL32-GAP && clip-eval run --data imagefolder:/data/val --out results "
            "--model model\n",
        ),
        (
            "--model ViT-B-32 --pretrained laion2b_s34b_b79k --imagenet-val val",
            "clip-eval run --data imagefolder:val --out results --model "
            "open_clip:ViT-B-32:laion2b_s34b_b79k\n",
        ),
    ],
)
def test_scripts_that_only_evaluate_become_a_clip_eval_line(words: str, command: str) -> None:
    assert translate("clipa", words.split()).text() == command


@pytest.mark.parametrize("epochs", [1, 3, 10, 30])
def test_fast_clip_s_plans_are_the_presets(tmp_path: Path, epochs: int) -> None:
    plan = {"warmup": 50, "batch_size": 128 if epochs == 1 else 32, "lr": 1e-4, "wd": 0.1}
    plan |= {"epochs": epochs, "workers": 1, "model": "RN50"}
    (tmp_path / "COCO.json").write_text(json.dumps({"COCO": plan}))
    found = translate("fast_clip", [str(tmp_path / "COCO.json")])
    config, expected = parse_config(found.toml, source="x"), load_config(f"coco-rn50-{epochs}")
    assert found.without_counterpart == []
    assert as_preset(config) == as_preset(expected)
    (tmp_path / "COCO.json").write_text(json.dumps({"A": plan, "B": plan}))
    with pytest.raises(ConfigError, match="holds several plans, A, B"):
        translate("fast_clip", [str(tmp_path / "COCO.json")])


def test_a_quoted_command_is_the_same_as_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    command = "torchrun --nproc_per_node 2 -m training.main --model ViT-B-16 --batch-size 4"
    assert main(["translate", "open_clip", command]) == 0
    quoted = capsys.readouterr().out
    assert main(["translate", "open_clip", "--", *command.split()]) == 0
    assert capsys.readouterr().out == quoted
    assert "batch_size = 8" in quoted


@pytest.mark.parametrize(
    ("text", "processes"),
    [
        ("torchrun --nproc_per_node $GPUS -m training.main --lr 1", "per node is '$GPUS'"),
        ("torchrun --nproc_per_node gpu -m training.main --lr 1", "per node is 'gpu'"),
        ("GPUS=4\ntorchrun --nproc_per_node $GPUS -m training.main --lr 1", 4),
        ("#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\nsrun python main.py --lr 1", 16),
        ("#SBATCH --nodes=3\ntorchrun --nnodes 3 --nproc-per-node 2 main.py --lr 1", 6),
        ("python -m training.main --lr 1", None),
        ("python3 /at/launch_xla.py --num-devices 8 training.main --lr 1", 8),
        ("echo hello", "no command with flags"),
        ("python main.py --name 'open", "cannot be read"),
    ],
)
def test_processes_of_launchers(text: str, processes: int | str | None) -> None:
    if isinstance(processes, str):
        with pytest.raises(ConfigError) as error:
            read_command(text)
        assert processes in str(error.value)
        if "per node" in processes:  # the remedy that is named
            assert read_command(text, 6).processes == 6
        return
    command = read_command(text)
    assert (command.flags, command.processes) == (["--lr", "1"], processes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model RN50 --unheard-of 3", "unheard-of 3 (unknown flag or key)"),
        ("--model RN50 --opt lamb", "opt lamb (AdamW is the default"),
        ("--model RN50 --precision pure_fp16", "precision pure_fp16"),
        ("--model RN50 --coca-caption-loss-weight 2", "coca-caption-loss-weight 2"),
        ("--model RN50 --lr-cooldown-power 2", "a cooldown is linear"),
        ("--model RN50 --resume epoch_3.pt", "weights to start from are --pretrained"),
        ("RN50 --lr 1", "unexpected 'RN50'"),
    ],
)
def test_unknown_flags_end_with_an_error(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["translate", "open_clip", "--", *words.split()]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err


@pytest.mark.parametrize(
    ("sources", "weights"),
    [
        ("a.tar::b.tar", (2.0, 1.0)),
        ("a/{00000..00099}.tar::b/{0..9}.tar", (200.0, 10.0)),  # as open_clip's expand_urls
        ("{a,b}/{0..4}.tar::c/{9..0}.tar", (20.0, 10.0)),
    ],
)
def test_a_factor_counts_for_each_shard(sources: str, weights: tuple[float, ...]) -> None:
    words = ["--train-data", sources, "--train-data-upsampling-factors", "2::1"]
    assert parse_config(translate("open_clip", words).toml, source="x").data.weights == weights
    with pytest.raises(ConfigError, match="3 factors for 2 sources"):
        translate("open_clip", [*words[:3], "2::1::1"])


@pytest.mark.parametrize("flag", ["lr", "epochs", "pretrained", "imagenet-val", "batch-size"])
def test_a_flag_without_its_value_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag} True .*expected a value"):
        translate("open_clip", ["--train-data", "a.tar", f"--{flag}", "--seed", "3"])


def test_preprocessing_and_positions_have_counterparts() -> None:
    words = "--model ViT-B-32 --image-mean 0.5 0.5 0.5 --image-std 0.25 0.25 0.25 "
    words += "--image-interpolation bilinear --image-resize-mode squash --force-context-length 32 "
    words += "--force-quick-gelu --csv-separator , --train-data a::b --dataset-type csv "
    words += "--train-data-upsampling-factors 2::1"
    config = parse_config(translate("open_clip", words.split()).toml, source="translated")
    assert config.model.preprocess == {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    assert config.model.text == {"context_length": 32, "activation": "quick_gelu"}
    assert config.data.weights == (2.0, 1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ViT-L-16-CL8-GAP", "ViT-L-16-CL8-Syntax-GAP"),
        ("ViT-H-14-CL8-Syntax-GAP", "ViT-H-14-CL8-SyntaxMask-GAP"),  # as the published scripts say
        ("ViT-B-16-CL16", "ViT-B-16-CL16"),
    ],
)
def test_names_that_published_scripts_get_wrong(name: str, expected: str) -> None:
    config = parse_config(translate("clipa", ["--model", name]).toml, source="translated")
    assert config.model.name == expected
    assert config.tokenizer.reduction == ("syntax" if "Syntax" in name else "truncate")


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown model 'ViT-B32'; did you mean 'ViT-B-32'"):
        translate("open_clip", ["--model", "ViT-B32"])
    with pytest.raises(ConfigError, match="unknown model 'ViT-B32'"):
        translate(
            "open_clip", ["--model", "ViT-B32", "--pretrained", "a.pt", "--imagenet-val", "val"]
        )


def test_validation_sets_are_a_list() -> None:
    words = [
        "--val-data",
        "v.csv",
        "--imagenet-val",
        "in1k",
        "--imagenet-v2",
        "/data",
        "--train-data",
        "t.csv",
    ]
    config = parse_config(translate("open_clip", words).toml, source="translated")
    v2 = "imagefolder:/data/ImageNetV2-matched-frequency"
    assert config.data.val == ("csv:v.csv", "imagefolder:in1k", v2)
    assert config.eval.classnames == ("", "", "imagenetv2")
    config = parse_config(translate("open_clip", words[:2]).toml, source="translated")
    assert (config.data.val, config.eval.classnames) == ("csv:v.csv", ())
    line = translate("open_clip", ["--pretrained", "m.pt", *words[2:6]]).text()
    assert line == (
        "clip-models convert m.pt --to clip-models --out model --model RN50 && clip-eval run "
        "--data imagefolder:in1k --out results --model model && clip-eval run --data "
        f"{v2} --classnames imagenetv2 --out results-imagenetv2 --model model\n"
    )


def test_a_locked_tower_keeps_its_statistics() -> None:
    words = ["--model", "RN50", "--lock-image"]
    with pytest.raises(ConfigError, match="as with --lock-image-freeze-bn-stats"):
        translate("open_clip", words)
    found = translate("open_clip", [*words, "--lock-image-freeze-bn-stats"])
    assert parse_config(found.toml, source="translated").model.lock_image
    assert translate("open_clip", ["--model", "ViT-B-32", "--lock-image"]).toml


def test_a_number_of_samples_as_a_power_of_ten() -> None:
    words = ["--train-data", "s/{0..9}.tar", "--train-num-samples", "4e8", "--epochs", "32"]
    config = parse_config(translate("open_clip", words).toml, source="translated")
    assert config.train.samples == 12_800_000_000
    with pytest.raises(ConfigError, match=r"expected a whole number, got 0\.5"):
        translate("open_clip", [*words[:3], "0.5"])


def test_settings_of_one_reason_are_told_once() -> None:
    words = (
        "--fastclip --gamma 0.2 --rho 7 --lr_tau 1e-4 --temperature_scheme global --multiply_tau"
    )
    with pytest.raises(ConfigError) as error:
        translate("fast_clip", words.split())
    assert str(error.value).count("own losses are not implemented") == 1
    assert "gamma 0.2, rho 7, lr-tau 1e-4" in str(error.value)


def test_corenet_s_evaluation_and_its_huge_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "clip_vit_huge.yaml"
    recipe.write_text(
        "model: {classification: {vit: {mode: huge}}, text: {transformer: {model_dim: 768, "
        "n_heads_per_layer: 12, no_pos_embedding: false, embed_dropout: 0.0}}}\n"
        "scheduler: {is_iteration_based: true, max_epochs: 12, max_iterations: 120000}\n"
    )
    config = parse_config(translate("corenet", [str(recipe)]).toml, source="translated")
    assert config.model.vision == {"width": 1280, "num_layers": 32, "num_heads": 20}
    assert config.model.text == {"width": 768, "num_heads": 12}
    assert (config.train.steps, config.train.epochs) == (120_000, None)
    script = tmp_path / "eval.sh"
    script.write_text(
        f'export CONFIG_FILE="{recipe}"\nexport WEIGHTS=https://host/a/clip_vit_base.pt\n'
        'export DATA="/data/imagenet/validation" # change to the path of the images\n'
        "CUDA_VISIBLE_DEVICES=0 corenet-eval --common.config-file $CONFIG_FILE "
        "--model.multi-modal-image-text.pretrained $WEIGHTS --common.override-kwargs "
        "dataset.root_val=$DATA\n"
    )
    assert translate("corenet", [str(script)]).text() == (
        "curl -LO https://host/a/clip_vit_base.pt && clip-models convert clip_vit_base.pt --to "
        "clip-models --out model --model CoreNet-ViT-B-16 && clip-eval run --data "
        "imagefolder:/data/imagenet/validation --out results --model model\n"
    )


def test_a_comment_behind_a_continued_line(tmp_path: Path) -> None:
    """As in OFM's published command; without it the command would end there, and train a ViT."""
    script = tmp_path / "train.sh"
    script.write_text(
        "python scripts/train_clip_img_classification.py \\\n--model clip --dataset cifar10 \\\n"
        '--huggingface_token "yours (optional)"  \\ #needed for ImageNet only\n'
        "--elastic_config scripts/clip_elastic_space.json\n\nwandb --relogin\n"
    )
    found = translate("osf", [str(script)])
    config = parse_config(found.toml, source="translated")
    assert config.model.pretrained == "hf-hub:openai/clip-vit-base-patch32"
    assert "--space scripts/clip_elastic_space.json" in found.command
    with pytest.raises(ConfigError, match=r"model vit .*supernets of other models than CLIP"):
        translate("osf", ["--dataset", "cifar10"])  # its default model
