"""What an extracted module can do: compile, export, ONNX, copy, and be a plain config again."""

from __future__ import annotations

import copy

import pytest
import torch
from osf_supernet import Supernet
from osf_supernet.subnets.comparison import run

pytestmark = pytest.mark.filterwarnings("ignore")  # exporters warn of their own future


@pytest.fixture(scope="module", params=["tv_vit", "clip_vit"])
def subject(request, build):
    model, inputs = build(request.param)
    net = Supernet(model.float(), _single(inputs))
    return net.extract(net.smallest), _single(inputs)


def _single(inputs):
    if isinstance(inputs, torch.Tensor):
        return (inputs.float(),)
    return tuple(x.float() if x.is_floating_point() else x for x in inputs)


def tensors(module, inputs):
    with torch.no_grad():
        output = module(*inputs)
    return [output] if isinstance(output, torch.Tensor) else list(output[:2])


def test_it_is_copied_and_its_state_loads_into_the_copy(subject):
    small, inputs = subject
    again = copy.deepcopy(small)
    again.load_state_dict(small.state_dict())
    for one, two in zip(tensors(again, inputs), tensors(small, inputs), strict=True):
        assert torch.equal(one, two)


def test_it_exports(subject):
    small, inputs = subject
    program = torch.export.export(small, inputs)
    for one, two in zip(tensors(program.module(), inputs), tensors(small, inputs), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_it_compiles(subject):
    small, inputs = subject
    compiled = torch.compile(small)
    for one, two in zip(tensors(compiled, inputs), tensors(small, inputs), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_it_runs_in_onnxruntime(subject, tmp_path):
    import onnxruntime

    small, inputs = subject
    path = str(tmp_path / "small.onnx")
    torch.onnx.export(small, inputs, path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    for one, two in zip(session.run(None, feed), tensors(small, inputs), strict=False):
        torch.testing.assert_close(torch.from_numpy(one), two, rtol=1e-3, atol=1e-4)


def test_a_subnet_of_our_clip_is_a_plain_config_again(build):
    from clip_models import CLIP
    from clip_models.model import infer_config

    model, inputs = build("clip_vit")
    net = Supernet(model, inputs)
    small = net.extract(net.smallest)
    again = CLIP(infer_config(small)).double().eval()
    again.load_state_dict(small.state_dict())
    for one, two in zip(run(again, inputs), run(small, inputs), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
