"""A CLIP trained on CIFAR-10 becomes a supernet: accuracy against size, with rivals at equal cost.

    python packages/osf-supernet/bench/cifar_supernet.py FOLDER --out DIR
    python packages/osf-supernet/bench/cifar_supernet.py FOLDER --out DIR --latency
    python packages/osf-supernet/bench/cifar_report.py DIR --pictures packages/osf-supernet/docs

FOLDER holds `train/CLASS/*` and `val/CLASS/*`. For each seed and image tower (a ViT, a compact
ResNet) the script

1. trains a CLIP with class captions;
2. compares importance methods on it, before any other training;
3. makes it a supernet and trains that once;
4. takes a subnet with at least 30 % fewer parameters in the image tower and in the rest without
   the token embedding, chosen on held-out training images, and tunes it;
5. searches the Pareto front, whose subnets are measured as they are, without tuning;
6. gives what 3 and 4 took in processor seconds to torch-pruning on the same CLIP at as many
   parameters, to a narrow CLIP from scratch of as many, and, last, to the CLIP itself. The other
   way round torch-pruning gets the seconds of the tuning alone, which is what one more subnet
   costs, and the tuned subnet is tuned on for as long as torch-pruning was.

Every accuracy is over the whole `val`. Numbers go to DIR/results.json as soon as they are there;
what is started again goes on behind the last phase that was finished. `--latency` adds measured
milliseconds, for a machine that does nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cifar_importance import compare_importance
from cifar_rivals import narrow, pruned
from cifar_task import (
    TOWERS,
    Data,
    accuracy,
    captions,
    correct,
    fit,
    likelihood,
    make_model,
    normalized,
    parts,
    schedule,
)
from clip_models import CLIP
from osf_supernet import (
    SearchConfig,
    Supernet,
    load_subnet,
    ratios,
    save_subnet,
    search_subnets,
)
from osf_supernet.subnets import extract_module
from osf_supernet.training import Contrastive, Sandwich, recalibrate, recalibrated, train
from results import Results
from torch import nn

TRANSFORMER = {
    "mlp": ratios(0.25, 0.5, 0.75, 1, multiple_of=8),
    "heads": ratios(0.5, 0.75, 1),
    "depth": ratios(0.5, 0.75, 1),
}
SPACES = {
    "vit": TRANSFORMER,
    "resnet": TRANSFORMER | {"channel": ratios(0.5, 0.625, 0.75, 0.875, 1, multiple_of=4)},
}
LEARNING_RATES = {"vit": 2e-3, "resnet": 6e-3}  # of the CLIP; half of it for all that follows
Config = dict[str, int]


class Run:
    """One seed of one tower: its phases, each with weights on disk and rows in the results."""

    def __init__(
        self, tower: str, seed: int, options: argparse.Namespace, data: Data, results: Results
    ) -> None:
        self.tower, self.seed, self.options = tower, seed, options
        self.data = data.of_seed(seed)
        self.results = results
        self.name = f"{tower} {seed}"
        self.lr = LEARNING_RATES[tower]
        self.folder = options.out / f"{tower}-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def calibration(self) -> list[Any]:
        """What batch norms are recalibrated with."""
        return [self.data(10_000_000 + index) for index in range(4)]

    def measured(self, model: nn.Module, **more: Any) -> dict[str, Any]:
        """Accuracy over the whole `val`, how many images that is, and the size of both parts."""
        right = correct(model, *self.data.val)
        found = {"accuracy": 100 * float(right.double().mean()), "evaluated": len(right)}
        return found | {"parts": parts(model)} | more

    def once(self, name: str, function: Callable[[], Any]) -> Any:
        """A row of the results, measured if it is not there yet."""
        return self.results.measure(self.name, name, function)

    def clip(self) -> CLIP:
        """The trained CLIP."""
        torch.manual_seed(self.seed)
        model, file = make_model(self.tower), self.folder / "clip.pt"
        if not file.exists():
            took = fit(model, self.data, self.lr, steps=self.options.steps, offset=0)
            torch.save((model.state_dict(), took), file)
        state, took = torch.load(file)
        model.load_state_dict(state)
        model.eval()
        self.once("CLIP", lambda: self.measured(model, **took))
        return model

    def supernet(self) -> tuple[Supernet, float]:
        """The trained supernet, and the processor seconds that it took."""
        model, folder = self.clip(), self.folder / "supernet"
        start = time.process_time()
        images, tokens = self.data(0, 2)
        net = Supernet(model, (images, tokens), SPACES[self.tower])
        if not (folder / "done.json").exists():
            net.reorder("magnitude")
            steps, lr = self.options.supernet_steps, self.lr / 2
            train(
                Sandwich(net, Contrastive(), num_random=1, seed=self.seed),
                lambda step: self.data(1_000_000 + step),
                torch.optim.AdamW(model.parameters(), lr, weight_decay=0.05),
                steps,
                learning_rate=lambda step: lr * schedule(step / steps, step),
                max_grad_norm=1.0,
            )
            folder.mkdir(exist_ok=True)
            torch.save((model.state_dict(), net.depth_orders), folder / "weights.pt")
            took = {"seconds": time.process_time() - start, "steps": steps}
            (folder / "done.json").write_text(json.dumps(took))
        state, net.depth_orders = torch.load(folder / "weights.pt")
        model.load_state_dict(state)
        took = json.loads((folder / "done.json").read_text())
        self.once("supernet's largest", lambda: self.measured(model, **took))
        return net, float(took["seconds"])

    def score(self, model: nn.Module) -> float:
        """Of what is active in a model, as it is, on the held-out images."""
        with recalibrated(model, self.calibration):
            return accuracy(model, *self.data.held_out)

    def subnet(self) -> float:
        """The chosen subnet, before and after tuning; processor seconds of the whole way to it."""
        net, seconds = self.supernet()
        folder, rows = self.folder / "subnet", self.results.data[self.name]
        if "subnet, tuned" not in rows:
            start = time.process_time()
            found = within_cut(net, self.options.candidates)
            scores = []
            for config in found:
                with net.active(config), recalibrated(net.model, self.calibration):
                    scores.append(likelihood(net.model, *self.data.held_out))
            config = found[scores.index(max(scores))]
            small = net.extract(config)
            recalibrate(small, self.calibration)
            chosen = time.process_time() - start
            more = {"cut": cut_of(net, config), "config": config, "choice_seconds": chosen}
            self.once("subnet", lambda: self.measured(small, **more))
            took = fit(
                small,
                self.data,
                self.lr / 2,
                steps=self.options.tune_steps,
                offset=5_000_000,
            )
            save_subnet(small, folder)
            self.once("subnet, tuned", lambda: self.measured(small, **took))
        rows = self.results.data[self.name]
        return seconds + rows["subnet"]["choice_seconds"] + rows["subnet, tuned"]["seconds"]

    def rivals(self, seconds: float, name: str = "") -> None:
        """torch-pruning, and a narrow model from scratch, at as many parameters and seconds."""
        most, clip = sum(self.results.data[self.name]["subnet"]["parts"]), self.clip()

        def trained(make: Callable[[], nn.Module], lr: float, offset: int) -> dict[str, Any]:
            try:
                other = make()
            except Exception as error:  # another library may fail on a model: say so, go on
                return {"failed": f"{type(error).__name__}: {error}"[:300]}
            took = fit(other, self.data, lr, seconds=seconds, offset=offset)
            return self.measured(other, **took)

        make = {"torch-pruning" + name: (lambda: pruned(clip, self.data, most), self.lr / 2, 6)}
        if not name:
            make["from scratch"] = (lambda: narrow(clip, most, self.seed), self.lr, 7)
        for row, (build, lr, number) in make.items():
            self.once(row, lambda b=build, r=lr, n=number: trained(b, r, n * 1_000_000))

    def continued(self, seconds: float) -> None:
        """The subnet, and the CLIP itself, trained on for as many seconds."""

        def row(model: nn.Module, offset: int) -> dict[str, Any]:
            took = fit(model, self.data, self.lr / 2, seconds=seconds, offset=offset)
            return self.measured(model, **took)

        small = load_subnet(self.folder / "subnet", make_model(self.tower))
        self.once("subnet, tuned as long as torch-pruning", lambda: row(small, 9_000_000))
        self.once("CLIP, trained on", lambda: row(self.clip(), 8_000_000))

    def front(self) -> None:
        """A search on held-out images; its front on `val`, no subnet tuned."""
        net, _ = self.supernet()

        def row() -> dict[str, Any]:
            size = self.options.population
            config = SearchConfig(population=size, generations=3, greedy=size, seed=self.seed)
            found = search_subnets(
                net,
                self.score,
                config,
                folder=self.folder / "search",
            )
            rows = []
            for candidate in found.front:
                with net.active(candidate.config), recalibrated(net.model, self.calibration):
                    measured = self.measured(net.model, config=candidate.config)
                rows.append(measured | {"held_out": candidate.score, "origin": candidate.origin})
            everything = [[c.params, c.score, c.origin] for c in found.candidates]
            return {"rows": rows, "evaluated": everything}

        self.once("front", row)

    def latency(self) -> None:
        """Milliseconds for 32 images and ten texts: CLIP, tuned subnet, and the front's subnets."""
        net, _ = self.supernet()
        small = load_subnet(self.folder / "subnet", make_model(self.tower)).eval()
        rows = self.results.data[self.name]["front"]["rows"]
        front = [extract_module(net.model, net.plan(row["config"]).surgery).eval() for row in rows]
        example = (normalized(self.data.val[0][:32]), captions(torch.arange(10), 0))

        def row() -> dict[str, Any]:
            full, subnet, *others = milliseconds_in_turn([net.model, small, *front], example)
            return {"full_ms": full, "subnet_ms": subnet, "front_ms": others}

        self.once("latency", row)


def cut_of(net: Supernet, config: Config) -> tuple[float, float]:
    """Which share of the image tower's and of the rest's parameters a config removes."""
    full = parts(net.model)
    with net.active(config):
        small = parts(net.model)
    return 1 - small[0] / full[0], 1 - small[1] / full[1]


def within_cut(net: Supernet, count: int) -> list[Config]:
    """The first sampled configs that cut 30 % to 36 % of both parts."""
    found: list[Config] = []
    for seed in range(20_000):
        config = net.sample(seed=seed, max_params=0.7)
        if min(cut := cut_of(net, config)) >= 0.30 and max(cut) <= 0.36:
            found.append(config)
        if len(found) == count:
            return found
    raise RuntimeError(f"only {len(found)} of 20,000 sampled subnets cut both parts by 30 to 36 %")


def milliseconds_in_turn(models: list[nn.Module], example: Any, rounds: int = 15) -> list[float]:
    """Median milliseconds of a forward of each model on one thread; the models take turns.

    It is the processor's time, which other work on the machine lengthens little.
    """
    times: list[list[float]] = [[] for _ in models]
    with torch.no_grad():
        for _ in range(rounds + 1):
            for model, own in zip(models, times, strict=True):
                start = time.process_time()
                model(*example)
                own.append(1000 * (time.process_time() - start))
    return [statistics.median(own[1:]) for own in times]


def main() -> None:
    """Run what is not in the results yet, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--towers", nargs="+", choices=sorted(TOWERS), default=sorted(TOWERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3800, help="of the CLIP")
    parser.add_argument("--supernet-steps", type=int, default=800)
    parser.add_argument("--tune-steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--candidates", type=int, default=48, help="of the chosen subnet")
    parser.add_argument("--population", type=int, default=10, help="of the search")
    parser.add_argument("--latency", action="store_true", help="measure milliseconds, no more")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = Data(options.folder, options.out, options.batch)
    results = Results(options.out)
    runs = [
        Run(tower, seed, options, data, results)
        for seed in range(options.seeds)
        for tower in options.towers
    ]
    if options.latency:
        for run in runs:
            run.latency()
        return
    seconds = {run.name: run.subnet() for run in runs}
    for run in runs:
        run.front()
        run.once("importance", lambda run=run: compare_importance(run.clip(), run.data))
    for run in runs:
        run.rivals(seconds[run.name])
        tuning = results.data[run.name]["subnet, tuned"]["seconds"]
        run.rivals(tuning, ", for the seconds of the tuning")
    for run in runs:
        run.continued(seconds[run.name])


if __name__ == "__main__":
    main()
