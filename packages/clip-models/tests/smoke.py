"""Run by the isolation session: the installed wheel works alone."""

import tempfile

import torch
from clip_models import create_model, load_model, save_model
from clip_models.config import PreprocessConfig

model = create_model("Compact-32").eval()
images, tokens = torch.zeros(2, 3, 32, 32), torch.tensor([[1, 49407], [2, 49407]])
with tempfile.TemporaryDirectory() as directory, torch.no_grad():
    save_model(directory, model, PreprocessConfig(size=32))
    loaded, _ = load_model(directory)
    for ours, theirs in zip(model(images, tokens)[:2], loaded(images, tokens)[:2], strict=True):
        assert torch.equal(ours, theirs)
print("clip-models works")
