from __future__ import annotations

import torch
from osf_supernet import count_parameters
from osf_supernet.subnets import Surgery, active
from torch import nn


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 3)
        self.head = nn.Linear(3, 7, bias=True)
        self.scale = nn.Parameter(torch.ones(()))
        self.head.weight = self.table.weight


def test_biases_and_bare_parameters_count_and_tied_ones_once():
    assert count_parameters(Bare()) == 7 * 3 + 7 + 1


def test_two_parameter_objects_on_one_storage_are_one():
    model = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    model[1].weight = nn.Parameter(model[0].weight.data)
    assert count_parameters(model) == 16


def test_trainable_only_leaves_frozen_ones_out():
    model = nn.Linear(4, 5)
    model.weight.requires_grad_(False)
    assert count_parameters(model, trainable_only=True) == 5


def test_meta_parameters_have_no_address_and_still_count():
    assert count_parameters(nn.Linear(4, 5, device="meta")) == 25


def test_slices_count_inside_active():
    model = nn.Linear(4, 6)
    surgery = Surgery(keep={"weight": (range(2), None), "bias": (range(2),)})
    with active(model, surgery):
        assert count_parameters(model) == 2 * 4 + 2
    assert count_parameters(model) == 6 * 4 + 6
