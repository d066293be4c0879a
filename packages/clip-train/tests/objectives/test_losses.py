"""Objectives against slow loops in float64, in one process and on ranks that are threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import open_clip
import pytest
import torch
from clip_train.config.training import LossConfig
from clip_train.distributed.communicator import SINGLE_PROCESS, all_gather_rows, all_reduce_sum
from clip_train.objectives.candidates import Candidates, merge_candidates, separate_candidates
from clip_train.objectives.losses import contrastive_loss, distillation_loss, sigmoid_loss
from clip_train.objectives.repeats import collapsed_loss, count_pairs, least_loss
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize


class Threads:
    """A communicator between threads: everyone posts, all wait, everyone reads."""

    def __init__(self, rank: int, world: int, board: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.world_size, self.board, self.barrier = rank, world, board, barrier

    def _exchange(self, x: Tensor) -> list[Tensor]:
        self.board[self.rank] = x.clone()
        self.barrier.wait()
        posted = list(self.board)
        self.barrier.wait()
        return posted

    def all_gather(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        posted = self._exchange(x)
        assert [len(part) for part in posted] == list(counts)
        return posted

    def all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self._exchange(x)).sum(dim=0)

    def ring_shift(self, x: Tensor, rows: int) -> Tensor:
        received = self._exchange(x)[(self.rank + 1) % self.world_size]
        assert len(received) == rows
        return received


def on_ranks(world: int, function: Callable[[Threads], Any]) -> list[Any]:
    """What `function` returns on each of `world` ranks."""
    board, barrier, results = [None] * world, threading.Barrier(world, timeout=300), [None] * world
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            results[rank] = function(Threads(rank, world, board, barrier))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def features(count: int, seed: int, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=1)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def tokens_of(captions: Sequence[int]) -> Tensor:
    """Rows of made-up tokens, equal for equal captions."""
    return torch.tensor([[1, 10 + caption, 7 * caption, 2, 0] for caption in captions])


def single(rows: Sequence[int]) -> Candidates:
    return merge_candidates(tokens_of(range(max(rows) + 1)), torch.tensor(rows))


def slow_loss(image: Tensor, text: Tensor, scale: Tensor, rows: list[int], eps: float) -> Tensor:
    """The definition, pair by pair: one candidate per distinct caption."""
    count, candidates = len(image), len(text)
    to_text = torch.zeros((), dtype=torch.float64)
    to_image = torch.zeros((), dtype=torch.float64)
    for i in range(count):
        scores = [scale * image[i] @ text[u] for u in range(candidates)]
        logs = torch.stack(scores) - torch.logsumexp(torch.stack(scores), 0)
        to_text = to_text - (1 - eps) * logs[rows[i]] - eps / candidates * logs.sum()
    for i in range(count):  # the caption of image i, scored against all images
        scores = [scale * image[j] @ text[rows[i]] for j in range(count)]
        logs = torch.stack(scores) - torch.logsumexp(torch.stack(scores), 0)
        mates = [j for j in range(count) if rows[j] == rows[i]]
        for j in mates:
            to_image = to_image - (1 - eps) * logs[j] / len(mates)
        to_image = to_image - eps / count * logs.sum()
    return (to_text + to_image) / (2 * count)


def slow_sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(image)):
        for j in range(len(text)):
            score = scale * image[i] @ text[j] + bias
            total = total - logsigmoid(score if i == j else -score)
    return total / len(image)


def slow_distillation(
    image: Tensor, text: Tensor, scale: Tensor, teacher: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """The definition with whole matrices, for captions that all differ."""
    scores = scale * image @ text.T
    beliefs = teacher[2] * teacher[0] @ teacher[1].T
    one = cross_entropy(scores, beliefs.softmax(dim=1))
    return (one + cross_entropy(scores.T, beliefs.T.softmax(dim=1))) / 2


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12)


TILES = [None, 1, 2, 3, 100]


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1], [0, 0, 0, 0, 0], [0]])
def test_equals_the_slow_loop_with_gradients(
    rows: list[int], smoothing: float, tile: int | None
) -> None:
    image, text = features(len(rows), 1), features(max(rows) + 1, 2)
    inputs = [tensor.requires_grad_() for tensor in (image, text, scalar(9.0))]
    ours = contrastive_loss(*inputs, single(rows), label_smoothing=smoothing, tile=tile)
    slow = slow_loss(*inputs, rows, smoothing)
    assert_close([ours], [slow])
    assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(slow, inputs))


@pytest.mark.parametrize("tile", TILES)
def test_the_sigmoid_loss_equals_the_slow_loop_with_gradients(tile: int | None) -> None:
    inputs = [features(5, 1), features(5, 2), scalar(9.0), scalar(-2.0)]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    ours = sigmoid_loss(*inputs, separate_candidates(torch.arange(5)), tile=tile)
    slow = slow_sigmoid(*inputs)
    assert_close([ours], [slow])
    assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(slow, inputs))


@pytest.mark.parametrize("tile", TILES)
def test_distillation_equals_the_definition_with_gradients(tile: int | None) -> None:
    inputs = [tensor.requires_grad_() for tensor in (features(5, 1), features(5, 2), scalar(9.0))]
    teacher = (features(5, 3, width=4), features(5, 4, width=4), scalar(7.0))
    candidates = separate_candidates(torch.arange(5))
    ours = distillation_loss(*inputs, *teacher, candidates, tile=tile)
    slow = slow_distillation(*inputs, teacher)
    assert_close([ours], [slow])
    assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(slow, inputs))


def test_a_teacher_is_learned_exactly_when_the_student_equals_it() -> None:
    inputs = [tensor.requires_grad_() for tensor in (features(5, 1), features(4, 2), scalar(9.0))]
    loss = distillation_loss(*inputs, *inputs, single([0, 3, 1, 2, 1]))
    for gradient in torch.autograd.grad(loss, inputs):
        assert gradient.abs().max() < 1e-12


LAYOUTS = {
    "one": [[0, 1, 2, 0, 3]],
    "two": [[0, 1, 0], [2, 0, 3]],
    "ragged": [[0, 1, 0, 4], [2, 0], [1, 1, 1]],
    "no-caption-owned": [[0, 1], [1, 0], [1, 1], [2, 3]],
}


def case(name: str, layout: list[list[int]]) -> dict[str, Any]:
    """One process's inputs: features of all images, and of all distinct captions."""
    captions = [caption for part in layout for caption in part]
    if name in ("sigmoid", "separate", "distillation-separate"):
        captions = list(range(len(captions)))
    return {
        "captions": captions,
        "image": features(len(captions), 1),
        "text": features(max(captions) + 1, 2),
        "teacher": (
            features(len(captions), 3, width=4),
            features(max(captions) + 1, 4, width=4),
            scalar(6.0),
        ),
    }


def share(
    name: str, image: Tensor, text: Tensor, scalars: list[Tensor], teacher: Any, **others: Any
) -> Tensor:
    if name == "sigmoid":
        return sigmoid_loss(image, text, *scalars, **others)
    if name.startswith("distillation"):
        return distillation_loss(image, text, scalars[0], *teacher, **others)
    return contrastive_loss(image, text, scalars[0], label_smoothing=0.1, **others)


@pytest.mark.parametrize("tile", [None, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name", ["merged", "separate", "sigmoid", "distillation", "distillation-separate"]
)
def test_ranks_together_have_the_loss_and_the_gradients_of_one(
    name: str, layout: str, tile: int | None
) -> None:
    parts = LAYOUTS[layout]
    whole = case(name, parts)
    merge = name in ("merged", "distillation")

    def candidates_of(captions: list[int], communicator: Any) -> tuple[list[int], Candidates]:
        """The distinct captions of a rank, and its candidates."""
        texts = list(dict.fromkeys(captions)) if merge else captions
        rows = torch.tensor([texts.index(caption) for caption in captions])
        if merge:
            return texts, merge_candidates(tokens_of(texts), rows, communicator)
        return texts, separate_candidates(rows, communicator)

    def loss_and_gradients(captions: list[int], images: slice, communicator: Any) -> list[Tensor]:
        texts, candidates = candidates_of(captions, communicator)
        leaves = [
            tensor.clone().requires_grad_()
            for tensor in (whole["image"], whole["text"], scalar(9.0), scalar(-1.0))
        ]
        loss = share(
            name,
            leaves[0][images],
            leaves[1][texts],
            leaves[2:],
            (whole["teacher"][0][images], whole["teacher"][1][texts], whole["teacher"][2]),
            labels=candidates,
            tile=tile,
            communicator=communicator,
        )
        return [loss, *torch.autograd.grad(loss, leaves, materialize_grads=True)]

    starts = [sum(map(len, parts[:rank])) for rank in range(len(parts) + 1)]
    shares = on_ranks(
        len(parts),
        lambda threads: loss_and_gradients(
            whole["captions"][starts[threads.rank] : starts[threads.rank + 1]],
            slice(starts[threads.rank], starts[threads.rank + 1]),
            threads,
        ),
    )
    reference = loss_and_gradients(whole["captions"], slice(None), SINGLE_PROCESS)
    assert_close([torch.stack(parts).sum(dim=0) for parts in zip(*shares, strict=True)], reference)


def test_distinct_captions_give_clip_s_loss() -> None:
    image, text, scale = features(7, 3), features(7, 4), scalar(20.0)
    logits = scale * image @ text.T
    target = torch.arange(7)
    reference = (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
    assert_close([contrastive_loss(image, text, scale, separate_candidates(target))], [reference])


def test_losses_equal_open_clip_with_gradients() -> None:
    inputs = [features(7, 3), features(7, 4), scalar(20.0), scalar(-3.0)]
    image, text, scale, *_ = inputs = [tensor.requires_grad_() for tensor in inputs]
    teacher = (features(7, 5, width=4), features(7, 6, width=4), scalar(15.0))
    distill = open_clip.loss.DistillClipLoss()(image, text, scale, *teacher, output_dict=True)
    pairs = {
        "contrastive": (contrastive_loss(image, text, scale), open_clip.ClipLoss()(*inputs[:3])),
        "sigmoid": (sigmoid_loss(*inputs), open_clip.loss.SigLipLoss()(*inputs)),
        "distillation": (
            distillation_loss(image, text, scale, *teacher),
            distill["distill_loss"],
        ),
    }
    for ours, theirs in pairs.values():
        assert_close([ours], [theirs])
        gradients = [
            torch.autograd.grad(loss, inputs, materialize_grads=True) for loss in (ours, theirs)
        ]
        assert_close(*gradients)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_pairs_with_equal_labels_share_a_caption(smoothing: float) -> None:
    rows = [0, 0, 1, 2, 1]
    image, text, scale = features(5, 1), features(3, 2), scalar(9.0)
    labels = torch.tensor([70, 70, -5, 0, -5])
    ours = contrastive_loss(image, text[rows], scale, labels, label_smoothing=smoothing)
    assert_close([ours], [slow_loss(image, text, scale, rows, smoothing)])
    candidates = single(rows)
    ours = sigmoid_loss(image, text[rows], scale, scalar(-2.0), labels)
    assert_close([ours], [sigmoid_loss(image, text, scale, scalar(-2.0), candidates)])
    teacher = (features(5, 3, width=4), features(3, 4, width=4), scalar(7.0))
    ours = distillation_loss(
        image, text[rows], scale, teacher[0], teacher[1][rows], teacher[2], labels
    )
    assert_close([ours], [distillation_loss(image, text, scale, *teacher, candidates)])


def test_equal_labels_on_several_ranks_share_a_caption() -> None:
    labels = torch.tensor([4, 9, 4, 4, 1])
    captions = {4: 0, 9: 1, 1: 2}
    rows = [captions[label] for label in labels.tolist()]
    image, text, scale = features(5, 1), features(3, 2), scalar(9.0)
    bounds = [slice(0, 2), slice(2, 5)]

    def share_of(threads: Threads) -> Tensor:
        mine = bounds[threads.rank]
        return contrastive_loss(
            image[mine], text[rows][mine], scale, labels[mine], communicator=threads
        )

    assert_close(
        [torch.stack(on_ranks(2, share_of)).sum()], [slow_loss(image, text, scale, rows, 0)]
    )


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (3, None, "expected a text for each of 4 images, got 3; repeat the text"),
        (4, torch.zeros(3, dtype=torch.int64), r"expected labels of shape \(4,\) .* got \(3,\)"),
        (4, torch.zeros(4), "an integer type, one for each pair, got .* of torch.float32"),
    ],
)
def test_labels_must_fit_the_pairs(texts: int, labels: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(features(4, 1), features(texts, 2), scalar(9.0), labels)


def test_order_of_the_batch_does_not_matter() -> None:
    image, text, scale = features(6, 3), features(3, 4), scalar(5.0)
    rows = [0, 1, 0, 2, 2, 0]
    order = [3, 0, 5, 1, 4, 2]
    one = contrastive_loss(image, text, scale, single(rows))
    other = contrastive_loss(image[order], text, scale, single([rows[i] for i in order]))
    assert_close([one], [other])


@pytest.mark.parametrize("tile", [None, 2])
def test_gradcheck(tile: int | None) -> None:
    image, text = features(4, 1).requires_grad_(), features(3, 2).requires_grad_()
    candidates = single([0, 2, 1, 2])
    assert torch.autograd.gradcheck(
        lambda *inputs: contrastive_loss(*inputs, candidates, label_smoothing=0.1, tile=tile),
        (image, text, scalar(3.0).requires_grad_()),
    )


def test_second_derivatives_of_infonce_are_exact_also_on_two_ranks() -> None:
    def penalty(image: Tensor, text: Tensor, communicator: Any) -> Tensor:
        candidates = separate_candidates(torch.arange(len(image)), communicator)
        loss = contrastive_loss(image, text, scalar(3.0), candidates, communicator=communicator)
        (first,) = torch.autograd.grad(loss, image, create_graph=True)
        return torch.autograd.grad(first.square().sum(), image)[0]

    image, text = features(5, 1).requires_grad_(), features(5, 2).requires_grad_()
    want = penalty(image, text, SINGLE_PROCESS)
    assert torch.autograd.gradgradcheck(
        lambda image, text: contrastive_loss(image, text, scalar(3.0)), (image, text)
    )

    def work(threads: Threads) -> Tensor:
        rows = slice(0, 2) if threads.rank == 0 else slice(2, 5)
        return penalty(*(x.detach()[rows].requires_grad_() for x in (image, text)), threads)

    assert_close([torch.cat(on_ranks(2, work))], [want])


@pytest.mark.parametrize("by", ["grad", "backward"])
@pytest.mark.parametrize("kind", ["contrastive", "sigmoid", "distillation"])
def test_second_derivatives_of_losses_in_tiles_are_refused(kind: str, by: str) -> None:
    image, text = features(4, 1).requires_grad_(), features(4, 2).requires_grad_()
    candidates, scale = separate_candidates(torch.arange(4)), scalar(3.0)
    if kind == "contrastive":
        loss = contrastive_loss(image, text, scale, candidates, tile=2)
    elif kind == "sigmoid":
        loss = sigmoid_loss(image, text, scale, scalar(0.0), candidates)
    else:
        teacher = features(4, 5), features(4, 6), scale
        loss = distillation_loss(image, text, scale, *teacher, candidates, tile=2)
    differentiate = {
        "grad": lambda: torch.autograd.grad(loss, image, create_graph=True),
        "backward": lambda: loss.backward(create_graph=True),
    }
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        differentiate[by]()


@pytest.mark.parametrize("tile", [None, 64])
def test_large_scales_neither_overflow_nor_lose_the_gradient(tile: int | None) -> None:
    image, text = features(200, 1).float(), features(200, 2).float()
    inputs = [tensor.requires_grad_() for tensor in (image, text, torch.tensor(100.0))]
    loss = contrastive_loss(*inputs, separate_candidates(torch.arange(200)), tile=tile)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    reference = contrastive_loss(*exact, separate_candidates(torch.arange(200)))
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(reference, exact), strict=True
    ):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_tiles_keep_no_scores_for_the_backward_pass() -> None:
    saved = []
    inputs = [features(256, 1).requires_grad_(), features(256, 2).requires_grad_(), scalar(9.0)]
    candidates = separate_candidates(torch.arange(256))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()), lambda x: x):
        contrastive_loss(*inputs, candidates, tile=32)
        sigmoid_loss(*inputs, scalar(0.0), candidates)
    assert max(saved) <= 256 * 6


def test_equal_tokens_are_one_candidate_wherever_they_are_and_however_padded() -> None:
    layout = [tokens_of([5, 3]), torch.nn.functional.pad(tokens_of([3, 4, 4]), (0, 2))]

    def number(threads: Threads) -> Candidates:
        tokens = layout[threads.rank]
        return merge_candidates(tokens, torch.arange(len(tokens)), threads)

    first, second = on_ranks(2, number)
    assert (first.owned.tolist(), second.owned.tolist()) == ([0, 1], [1])
    assert first.occurrences.tolist() == [1, 2]  # 3 occurs on both ranks
    assert second.occurrences.tolist() == [2]  # 4 occurs twice on one
    assert first.owned_counts == second.owned_counts == (2, 1)
    assert first.image_counts == (2, 3)
    assert (first.num_captions, first.num_images) == (3, 5)


def test_what_ranks_share_gets_gradients_from_all_of_them() -> None:
    counts = (2, 3)

    def work(threads: Threads) -> Tensor:
        x = torch.full((counts[threads.rank], 2), 1.0 + threads.rank, requires_grad=True)
        everyone = all_gather_rows(x, counts, threads)
        total = all_reduce_sum(x.sum(dim=0), threads)
        weight = torch.arange(5.0)[:, None] * (threads.rank + 1)
        loss = (weight * everyone).sum() + (threads.rank + 1) * total.sum()
        return torch.autograd.grad(loss, x)[0]

    first, second = on_ranks(2, work)
    assert first[:, 0].tolist() == [3.0, 6.0]  # (0, 1) * (1 + 2) + (1 + 2)
    assert second[:, 0].tolist() == [9.0, 12.0, 15.0]


def slow_repeats(image: Tensor, text: Tensor, scale: Tensor, pairs: list[tuple[int, int]]) -> Any:
    """The definition, pair by pair: pairs (image, caption); `image` has a row for each pair."""
    count = len(pairs)
    total = torch.zeros((), dtype=torch.float64)
    for i, (mine, _) in enumerate(pairs):
        scores = scale * text @ image[i]
        logs = scores - torch.logsumexp(scores, 0)
        captions = [c for g, c in pairs if g == mine]
        for c in captions:
            total = total - logs[c] / len(captions)
    for _, mine in pairs:
        scores = scale * image @ text[mine]
        logs = scores - torch.logsumexp(scores, 0)
        owners = [g for g, c in pairs if c == mine]
        for owner in owners:
            copies = [j for j, (g, _) in enumerate(pairs) if g == owner]
            for j in copies:
                total = total - logs[j] / (len(owners) * len(copies))
    return total / (2 * count)


REPEATS = {
    "several captions of an image": [(0, 0), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5)],
    "the same pair twice": [(0, 0), (0, 0), (1, 1), (2, 2), (2, 3), (3, 4)],
    "images and captions share": [(0, 0), (0, 1), (1, 1), (1, 0), (2, 1), (3, 2)],
    "all alike": [(0, 0)] * 6,
}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("tile", [None, 2])
@pytest.mark.parametrize("pairs", REPEATS.values(), ids=REPEATS)
def test_equal_images_are_positives(
    pairs: list[tuple[int, int]], tile: int | None, world: int
) -> None:
    count = len(pairs)
    rows, captions = features(count, 1), features(max(c for _, c in pairs) + 1, 2)
    image_labels = torch.tensor([g for g, _ in pairs])
    caption_labels = torch.tensor([c for _, c in pairs])
    image, text = rows.clone().requires_grad_(), captions.clone().requires_grad_()
    scale = scalar(7.0).requires_grad_()
    expected = slow_repeats(image, text, scale, pairs)
    expected.backward()

    def share(communicator: Any) -> Any:
        mine = torch.arange(count).tensor_split(world)[communicator.rank]
        own = rows[mine].clone().requires_grad_()
        texts, own_scale = captions.clone().requires_grad_(), scalar(7.0).requires_grad_()
        loss = contrastive_loss(
            *(own, texts[caption_labels[mine]], own_scale, caption_labels[mine]),
            image_labels=image_labels[mine],
            tile=tile,
            communicator=communicator,
        )
        loss.backward()
        return loss.detach(), own.grad, texts.grad, own_scale.grad

    found = [share(SINGLE_PROCESS)] if world == 1 else on_ranks(world, share)
    losses, images, texts, scales = zip(*found, strict=True)
    torch.testing.assert_close(sum(losses), expected.detach())
    torch.testing.assert_close(torch.cat(images), image.grad)
    torch.testing.assert_close(sum(texts), text.grad)
    torch.testing.assert_close(sum(scales), scale.grad)


def test_image_labels_of_different_images_change_nothing() -> None:
    image, text, scale = features(5, 3), features(5, 4), scalar(9.0)
    plain = contrastive_loss(image, text, scale)
    assert torch.equal(contrastive_loss(image, text, scale, image_labels=torch.arange(5)), plain)
    with pytest.raises(ValueError, match="expected labels of shape"):
        contrastive_loss(image, text, scale, image_labels=torch.arange(4))


def optimum(kind: str, smoothing: float, pairs: list[tuple[int, int]]) -> float:
    """The least loss that L-BFGS finds over free scores of distinct images and captions."""
    groups, captions = max(g for g, _ in pairs) + 1, max(c for _, c in pairs) + 1
    scores = torch.zeros(groups, captions, dtype=torch.float64, requires_grad=True)
    image = torch.tensor([g for g, _ in pairs])
    caption = torch.tensor([c for _, c in pairs])
    count = len(pairs)

    def loss() -> Tensor:
        if kind == "sigmoid":
            every = scores[image][:, caption]
            signs = 2 * torch.eye(count, dtype=torch.float64) - 1
            return -logsigmoid(signs * every).sum() / count
        if kind == "infonce":
            every = scores[image][:, caption]
            goal = torch.arange(count)
            one = cross_entropy(every, goal, label_smoothing=smoothing)
            return (one + cross_entropy(every.T, goal, label_smoothing=smoothing)) / 2
        identity = torch.eye(groups, dtype=torch.float64)
        # contrastive_loss takes features: identity rows against columns of scores
        value = contrastive_loss(
            *(identity[image], scores.T[caption], scalar(1.0), caption),
            image_labels=image,
            label_smoothing=smoothing,
        )
        return value

    optimizer = torch.optim.LBFGS(
        [scores], max_iter=600, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)
    return float(loss().detach())


@pytest.mark.parametrize("kind", ["multi_positive", "infonce", "sigmoid"])
@pytest.mark.parametrize("pairs", REPEATS.values(), ids=REPEATS)
def test_the_least_loss_is_what_free_scores_reach(kind: str, pairs: list[tuple[int, int]]) -> None:
    for smoothing in (0.0,) if kind == "sigmoid" else (0.0, 0.1):
        config = LossConfig(kind=kind, label_smoothing=smoothing)  # type: ignore[arg-type]
        images = torch.tensor([[g] for g, _ in pairs])
        captions = torch.tensor([[c] for _, c in pairs])
        floor = least_loss(config, count_pairs(images, captions))
        assert floor is not None
        found = optimum(kind, smoothing, pairs)
        assert floor <= found + 1e-6
        if not smoothing:  # a smoothed target may pull both directions apart
            assert found - floor < 2e-3


def test_the_least_loss_of_the_example() -> None:
    """Eight captions of each of two images: ln 8; all different: 0."""
    config = LossConfig()
    captions = torch.arange(16)[:, None]
    counts = count_pairs(captions // 8, captions)
    assert (counts.repeated_images, counts.repeated_captions) == (14, 0)
    assert least_loss(config, counts) == pytest.approx(math.log(8))
    shared = count_pairs(captions, captions // 8)  # two candidates, each with eight images
    assert least_loss(config, shared) == pytest.approx(math.log(8) / 2)
    assert least_loss(config, count_pairs(captions, captions)) == 0
    teacher = LossConfig(kind="none", teacher="somewhere")
    assert least_loss(teacher, counts) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("tile", [None, 2])
def test_without_captions_to_images_it_is_a_classifier_of_the_distinct_captions(
    smoothing: float, tile: int | None
) -> None:
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    images, directions = features(6, 1).requires_grad_(), features(3, 2).requires_grad_()
    scale = scalar(7.0).requires_grad_()
    options = {"label_smoothing": smoothing, "caption_share": 0.0, "tile": tile}
    ours = contrastive_loss(images, directions[labels], scale, labels, **options)
    logits = scale * images @ directions.T
    theirs = cross_entropy(logits, labels, label_smoothing=smoothing)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12)
    leaves = (images, directions, scale)
    for mine, other in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
    ):
        assert torch.allclose(mine, other, atol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_captions_weighs_the_directions(share: float) -> None:
    images, texts, scale = features(5, 1), features(5, 2), scalar(4.0)
    logits, numbers = scale * images @ texts.T, torch.arange(5)
    both = cross_entropy(logits, numbers), cross_entropy(logits.T, numbers)
    expected = (1 - share) * both[0] + share * both[1]
    found = contrastive_loss(images, texts, scale, caption_share=share)
    assert float(found) == pytest.approx(float(expected), abs=1e-12)


def test_the_least_loss_knows_the_share_of_captions() -> None:
    """From images to captions it is the entropy of smoothed targets, reached by free scores."""
    captions = torch.tensor([[0], [0], [0], [1]])
    counts = count_pairs(torch.arange(4)[:, None], captions)
    entropy = -(0.95 * math.log(0.95) + 0.05 * math.log(0.05))  # smoothing of 0.1 over two
    alone = LossConfig(label_smoothing=0.1, caption_share=0.0)
    assert least_loss(alone, counts) == pytest.approx(entropy)
    other = least_loss(LossConfig(label_smoothing=0.1, caption_share=1.0), counts)
    assert other is not None
    mixed = LossConfig(label_smoothing=0.1, caption_share=0.3)
    assert least_loss(mixed, counts) == pytest.approx(0.7 * entropy + 0.3 * other)
    assert collapsed_loss(mixed, counts) == pytest.approx(0.7 * math.log(2) + 0.3 * math.log(4))
