"""Run by the isolation session: the installed wheel works alone."""

import torch
from osf_supernet import count_parameters

model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
model[1].weight = model[0].weight  # tied: one storage
assert count_parameters(model) == 4 * 4 + 4 + 4
print("osf-supernet works")
