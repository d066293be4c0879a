from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from osf_supernet import Supernet, ratios, sizes
from osf_supernet.training import (
    Classification,
    Contrastive,
    LanguageModel,
    Progress,
    Sandwich,
    last_word_accuracy,
    process_group,
    train,
)
from PIL import Image
from safetensors.torch import load_file
from torch import distributed, nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Linear(6, 8), nn.ModuleList(Block() for _ in range(3))
        self.drop, self.head = nn.Dropout(0.25), nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))


SPACE = {"mlp": ratios(0.25, 0.5, 1), "depth": sizes(1, 2, 3), "embed": sizes(4, 6, 8)}


def supernet(dropout=0.0):
    torch.manual_seed(0)
    model = Net().double()
    model.drop.p = dropout
    return Supernet(model, torch.randn(2, 6, dtype=torch.float64), SPACE)


def batch_of(step, size=8):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(size, 6, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 5, (size,), generator=generator)


def by_hand(model, config, depth_order, x):
    """The subnet in slices, written without the graph."""
    e = config["embed"]
    y = x @ model.embed.weight[:e].T + model.embed.bias[:e]
    for i in sorted(depth_order[: config["blocks.depth"]]):
        block, width = model.blocks[i], config[f"blocks.{i}.mlp"]
        z = F.layer_norm(y, (e,), block.norm.weight[:e], block.norm.bias[:e])
        z = F.gelu(z @ block.up.weight[:width, :e].T + block.up.bias[:width])
        y = y + z @ block.down.weight[:e, :width].T + block.down.bias[:e]
    return y @ model.head.weight[:, :e].T + model.head.bias


def test_three_steps_equal_hand_written_ones():
    net = supernet()
    twin = copy.deepcopy(net.model)
    task = Classification(distill=0.3, temperature=2.0, label_smoothing=0.1)
    sandwich = Sandwich(net, task, num_random=2, seed=4)
    ours = torch.optim.AdamW(net.model.parameters(), lr=1e-2)
    theirs = torch.optim.AdamW(twin.parameters(), lr=1e-2)
    order = net.depth_orders["blocks"]
    for step in range(3):
        x, labels = batch_of(step)
        ours.zero_grad()
        losses = sandwich.backward((x, labels), step)
        ours.step()
        theirs.zero_grad()
        expected, teacher = [], None
        for config in sandwich.configs(step):
            logits = by_hand(twin, config, order, x)
            loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
            if teacher is not None:
                p, q = (teacher / 2).softmax(-1), (logits / 2).softmax(-1)
                soft = (p * (p.log() - q.log())).sum(-1).mean() * 4
                loss = 0.7 * loss + 0.3 * soft
            else:
                teacher = logits.detach()
            expected.append(loss.detach())
            loss.backward()
        theirs.step()
        torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=0, atol=1e-9)
        for one, two in zip(net.model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


def test_what_a_step_samples_is_a_function_of_seed_and_step():
    net = supernet()
    first, second = Sandwich(net, Classification(), seed=1), Sandwich(net, Classification(), seed=1)
    assert first.configs(7) == second.configs(7)
    assert first.configs(7)[:2] == [net.largest, net.smallest]
    assert len({str(first.configs(step)[2:]) for step in range(8)}) > 4
    assert first.configs(7) != Sandwich(net, Classification(), seed=2).configs(7)
    bounded = Sandwich(net, Classification(), max_params=0.5)
    full = net.parameters_of({})
    assert all(net.parameters_of(c) <= full / 2 for s in range(5) for c in bounded.configs(s)[2:])


@pytest.mark.parametrize("missing", [True, False])
def test_straight_gradients_equal_those_of_active(missing):
    net = supernet()
    config = {"embed": 6, "blocks.0.mlp": 4, "blocks.depth": 2}
    x, labels = batch_of(0)

    def gradients(context):
        for parameter in net.model.parameters():
            parameter.grad = None if missing else torch.ones_like(parameter)
        with context(config):
            F.cross_entropy(net.model(x), labels).backward()
        return [None if p.grad is None else p.grad.clone() for p in net.model.parameters()]

    torch.testing.assert_close(gradients(net.training), gradients(net.active), rtol=0, atol=1e-12)


def test_a_copied_piece_gets_its_gradient_too():
    """A fused projection is no single stride: its gradient is scattered back."""
    from osf_supernet.subnets.surgery import Surgery, active, active_for_training

    layer, x = nn.Linear(3, 6).double(), torch.randn(2, 3, dtype=torch.float64)
    surgery = Surgery(keep={"weight": ((0, 2, 5), None), "bias": ((0, 2, 5),)})
    found = []
    for context in (active, active_for_training):
        layer.zero_grad()
        for _ in range(2):
            with context(layer, surgery):
                layer(x).square().sum().backward()
        found.append([layer.weight.grad.clone(), layer.bias.grad.clone()])
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    assert found[0][0][1].count_nonzero() == 0


def test_resuming_is_exact(tmp_path):
    def run(folder, *lengths):
        for steps in lengths:
            net = supernet(dropout=0.25)
            torch.manual_seed(5)
            optimizer = torch.optim.AdamW(net.model.parameters())
            seen = []
            train(
                Sandwich(net, Classification()),
                batch_of,
                optimizer,
                steps,
                learning_rate=lambda step: 1e-2 / (1 + step),
                max_grad_norm=1.0,
                folder=folder,
                save_every=2,
                report=seen.append,
            )
        return net.model.state_dict(), seen

    whole, _ = run(tmp_path / "whole", 6)
    parts, seen = run(tmp_path / "parts", 3, 6)
    assert [progress.step for progress in seen] == [3, 4, 5]
    assert isinstance(seen[0], Progress)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [p.name for p in (tmp_path / "parts").glob("step-*")] == ["step-0000006"]


def pairs(step, size=8):
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(size, 6, dtype=torch.float64, generator=generator)
    return images, torch.randint(0, 3, (size, 2), generator=generator)


class Towers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = Net(), Net()
        self.words = nn.Embedding(3, 3)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))

    def encode_image(self, images):
        return self.image(images)

    def encode_text(self, tokens):
        return self.text(self.words(tokens).flatten(1))

    def forward(self, images, tokens):
        return self.encode_image(images), self.encode_text(tokens), self.logit_scale.exp()


def towers():
    torch.manual_seed(1)
    model = Towers().double().eval()
    return Supernet(model, pairs(0, 2), {"mlp": ratios(0.5, 1), "depth": sizes(1, 3)})


def test_contrastive_loss_equals_a_slow_loop():
    net, task = towers(), Contrastive(distill=0.25, temperature=3.0, embedding=0.5)
    images, tokens = pairs(1)
    teacher = task(net.model, pairs(2)).outputs
    loss = task(net.model, (images, tokens), teacher).loss
    image = F.normalize(net.model.encode_image(images), dim=-1)
    text = F.normalize(net.model.encode_text(tokens), dim=-1)
    logits = net.model.logit_scale.exp() * image @ text.T
    hard = soft = 0.0
    for one, known in ((logits, teacher[0]), (logits.T, teacher[0].T)):
        for i in range(8):
            same = [j for j in range(8) if torch.equal(tokens[i], tokens[j])]
            hard -= sum(one[i].log_softmax(0)[j] for j in same) / len(same) / 16
            p, q = (known[i] / 3).softmax(0), (one[i] / 3).softmax(0)
            soft += 9 * (p * (p / q).log()).sum() / 16
    near = sum(1 - image[i] @ teacher[1][i] + 1 - text[i] @ teacher[2][i] for i in range(8)) / 8
    expected = 0.75 * hard + 0.25 * (soft + 0.5 * near / 2)
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-9)


TASKS = {
    "classification": (supernet, Classification, batch_of),
    "contrastive": (towers, Contrastive, pairs),
}


def trained(name, rank, world):
    """Weights after two steps on this rank's part of each batch."""
    make, task, batches = TASKS[name]
    net = make()
    sandwich = Sandwich(net, task())
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        sandwich.backward(tuple(x.chunk(world)[rank] for x in batches(step)), step)
        optimizer.step()
    return net.model.state_dict()


def resumed(rank, world, folder, *lengths):
    """Weights after runs of so many steps, each rank with its own dropout."""
    for steps in lengths:
        net = supernet(dropout=0.25)
        torch.manual_seed(rank if steps == lengths[0] else 99)
        train(
            Sandwich(net, Classification()),
            lambda step: tuple(x.chunk(world)[rank] for x in batch_of(step)),
            torch.optim.SGD(net.model.parameters(), lr=0.1),
            steps,
            folder=folder,
        )
        distributed.barrier()
    return net.model.state_dict()


def one_rank(rank, world, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    try:
        found = {name: trained(name, rank, world) for name in TASKS}
        for lengths in ((4,), (2, 4)):
            name = f"steps {lengths[-1]} in {len(lengths)}"
            found[name] = resumed(rank, world, f"{folder}/{name}", *lengths)
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    command = [sys.executable, __file__]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name in TASKS:
        expected = trained(name, 0, 1)
        for got in found:
            for key, value in expected.items():
                torch.testing.assert_close(got[name][key], value, rtol=0, atol=1e-9)
    for got in found:  # each rank goes on with its own random numbers
        for key, value in got["steps 4 in 1"].items():
            assert torch.equal(got["steps 4 in 2"][key], value)


@pytest.mark.slow
def test_osf_train_under_torchrun_is_one_process_with_all_rows(tmp_path):
    """Ranks begin with other weights of their own; images are noise, so that rows matter."""
    for part in ("train", "val"):
        for name in ("one", "two"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(4):
                noise = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(noise).save(tmp_path / part / name / f"{index}.png")
    (tmp_path / "noise_model.py").write_text(
        "import os, torch\nfrom torch import nn\n"
        "def make():\n"
        "    torch.manual_seed(int(os.environ.get('RANK', 0)))\n"
        "    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten()\n"
        "    return nn.Sequential(*layers, nn.Linear(288, 2)), torch.randn(2, 3, 8, 8)\n"
    )
    script = "import sys; from osf_supernet.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["train", "noise_model:make", "--images", ".", "--steps", "4", "--lr", "0.01"]

    def run(folder, batch, environment):
        command = [sys.executable, "-c", script, *words, "--batch-size", batch, "--out", folder]
        return subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **environment})

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [run("two", "3", {**group, "RANK": str(rank)}) for rank in range(2)]
    started.append(run("one", "6", {}))
    assert [process.wait(timeout=240) for process in started] == [0, 0, 0]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)


def test_weights_in_float16_are_refused():
    net = supernet()
    net.model.to(torch.bfloat16)
    Sandwich(net, Classification())
    net.model.to(torch.float16)
    with pytest.raises(ValueError, match=r"got float16 \(embed.weight\): call model.float\(\)"):
        Sandwich(net, Classification())


@pytest.mark.parametrize(
    "values",
    [
        {"WORLD_SIZE": "x"},
        {"WORLD_SIZE": "0"},
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "2"},
        {"WORLD_SIZE": "2", "RANK": "-1"},
    ],
)
def test_variables_of_torchrun_that_are_no_numbers_are_said(values, monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"variable {list(values)[-1]} must be|RANK must be"):
        process_group().__enter__()


def test_tasks_score_what_they_say():
    model = Net().double().eval()
    x, labels = batch_of(0)
    right = (model(x).argmax(-1) == labels).double().mean()
    assert Classification().evaluate(model, [batch_of(0)]) == pytest.approx(100 * float(right))

    class Counter(nn.Module):
        """After token t comes t + 1, with probability 0.5."""

        def forward(self, tokens):
            p = torch.full((*tokens.shape, 6), 0.1)
            return p.scatter(-1, ((tokens + 1) % 6)[..., None], 0.5).log()

    task, text = LanguageModel(), torch.arange(12)[None] % 6
    assert task.perplexity(Counter(), [text, text[:, :4]]) == pytest.approx(2)
    assert task.evaluate(Counter(), [text]) == pytest.approx(-2)
    examples = [(text[0, :3], text[0, 3:5]), (text[0, :3], torch.tensor([3, 3]))]
    assert last_word_accuracy(Counter(), examples, task) == 50

    net = towers()
    image = torch.randn(9, 6, dtype=torch.float64)
    texts = torch.tensor([[0, 1], [1, 2], [2, 2]])
    features = F.normalize(net.model.encode_text(texts), dim=-1)
    guesses = (net.model.encode_image(image) @ features.T).argmax(-1)
    assert Contrastive().evaluate(net.model, [(image, guesses)], texts) == 100
    assert Contrastive().evaluate(net.model, [(image, (guesses + 1) % 3)], texts) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"distill": 2}, r"distill must be in \[0, 1\]"), ({"temperature": 0}, "must be positive")],
)
@pytest.mark.parametrize("task", [Classification, Contrastive, LanguageModel])
def test_settings_that_mean_nothing_are_refused(task, arguments, message):
    with pytest.raises(ValueError, match=message):
        task(**arguments)


if __name__ == "__main__":  # one process of `test_two_processes_equal_one`
    one_rank(int(sys.argv[1]), 2, sys.argv[2])
