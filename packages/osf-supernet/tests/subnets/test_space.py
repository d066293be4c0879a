from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from osf_supernet import Choice, Space, ratios, sizes
from osf_supernet.graph.expressions import Atom, Compound
from osf_supernet.graph.graph import DimGroup, build_graph


def graph(*groups, depth=None):
    """A stand-in with the parts of a graph that a space reads."""
    made, tensors = {}, {}
    for number, (name, kind, size, *frozen) in enumerate(groups):
        made[number] = DimGroup(
            number=number,
            name=name,
            kind=kind,
            size=size,
            members=((name, 0),),
            frozen=frozen[0] if frozen else None,
            normalized=False,
        )
        tensors[name] = (Atom(number, size),)
        if kind == "heads":  # heads of 64
            head_dim = DimGroup(
                number=100 + number,
                name=f"{name}.head_dim",
                kind="head_dim",
                size=64,
                members=(),
                frozen="kept",
                normalized=False,
            )
            made[100 + number] = head_dim
            tensors[name] = (Compound("product", (Atom(number, size), Atom(100 + number, 64))),)
    return SimpleNamespace(
        groups=made,
        tensors=tensors,
        units={} if depth is None else {"blocks": [None] * depth},
        least={},
        elastic=lambda: [group for group in made.values() if group.frozen is None],
    )


VIT = graph(
    *((f"layer.{i}.mlp", "mlp", 3072) for i in range(2)),
    *((f"layer.{i}.heads", "heads", 12) for i in range(2)),
    ("embed", "embed", 768),
    ("pooler", "mlp", 768),
)
SWIN = graph(("stages.2.mlp", "mlp", 2048), ("stages.3.mlp", "mlp", 4096))
MAMBA = graph(("layers.0.ssm_inner", "ssm_inner", 2048))
CLIP = graph(("text_model.0.mlp", "mlp", 2048), ("vision_model.0.mlp", "mlp", 3072))
T5 = graph(("block.mlp", "mlp", 2048), ("embed", "embed", 768), ("block.heads", "heads", 12))
ELASTIC = {  # the eight files of OFM: atten_out, inter_hidden, residual_hidden
    "vit": (VIT, [768], [3072, 1280, 960], [768, 648]),
    "swin": (SWIN, [512], [2048, 1536, 1024], ["None"]),
    "mamba": (MAMBA, [512], [2048, 1536, 1024], ["None"]),
    "bert_base": (VIT, [768], [3072, 960, 600], [768, 600]),
    "bert_large": (
        graph(("0.mlp", "mlp", 4096), ("0.heads", "heads", 16), ("embed", "embed", 1024)),
        [1024, 768],
        [4096, 1280, 960],
        [1024, 768],
    ),
    "t5_base": (T5, [768], [2048, 1472, 1024, 768], [768, 512]),
    "t5_small": (graph(("0.mlp", "mlp", 1024)), [384], [1024, 512], [512]),
}
EXPECTED = {
    "vit": {"layer.0.mlp": (960, 1280, 3072), "embed": (648, 768)},
    "swin": {"stages.2.mlp": (1024, 1536, 2048)},
    "mamba": {"layers.0.ssm_inner": (1024, 1536, 2048)},
    "bert_base": {"layer.1.mlp": (600, 960, 3072), "embed": (600, 768)},
    "bert_large": {"0.mlp": (960, 1280, 4096), "0.heads": (12, 16), "embed": (768, 1024)},
    "t5_base": {"block.mlp": (768, 1024, 1472, 2048), "embed": (512, 768)},
    "t5_small": {"0.mlp": (512, 1024)},
}


def elastic(attention, inner, residual):
    return {
        "atten_out_space": attention,
        "inter_hidden_space": inner,
        "residual_hidden_space": residual,
    }


@pytest.mark.parametrize("name", sorted(ELASTIC))
def test_elastic_json_of_ofm_is_read(name, tmp_path):
    model, *lists = ELASTIC[name]
    path = tmp_path / "space.json"
    path.write_text(json.dumps(elastic(*lists)))
    space = Space.read(path)
    resolved = space.resolve(model)
    for group, values in EXPECTED[name].items():
        assert resolved[group] == values
    assert "pooler" not in resolved  # its full size is not the list's
    assert Space.from_dict(space.to_dict()).resolve(model) == resolved


def test_elastic_json_with_two_towers_and_a_supernet_folder(tmp_path):
    nothing = ["None"]
    data = {
        "text": elastic(nothing, [2048, 1536, 1024], nothing),
        "vision": elastic(nothing, [3072, 2048, 1280], nothing),
    }
    (tmp_path / "config.json").write_text(json.dumps({"elastic_config": data}))
    assert Space.read(tmp_path).resolve(CLIP) == {
        "text_model.0.mlp": (1024, 1536, 2048),
        "vision_model.0.mlp": (1280, 2048, 3072),
    }
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no elastic_config"):
        Space.read(tmp_path)


def test_an_elastic_list_below_every_full_size_concerns_the_larger_groups():
    space = Space.from_dict(elastic([512], [1024, 512], ["None"]))
    model = graph(("0.mlp", "mlp", 2048), ("1.mlp", "mlp", 800), ("embed", "embed", 4096))
    assert space.resolve(model) == {"0.mlp": (512, 1024)}


def test_an_elastic_list_that_fits_no_group_is_refused():
    space = Space.from_dict(elastic([768], [4000, 2000], ["None"]))
    with pytest.raises(ValueError, match="has the full size 4000"):
        space.resolve(VIT)


def test_ratios_round_to_multiples_and_keep_one_of_them():
    choice = ratios(0.01, 0.3, 1, multiple_of=8)
    assert choice.resolve("g", 100, 100) == (8, 32, 100)
    assert ratios(0.5).resolve("g", 3, 3) == (2,)


def test_a_later_pattern_overrides_and_names_are_globbed():
    space = Space({"mlp": ratios(0.5, 1), "layer.1.*": sizes(6), "*.depth": sizes(1, 2)})
    resolved = space.resolve(graph(*((f"layer.{i}.mlp", "mlp", 8) for i in range(2)), depth=2))
    assert resolved == {"layer.0.mlp": (4, 8), "layer.1.mlp": (6,), "blocks.depth": (1, 2)}


def test_json_round_trip():
    space = Space({"*.mlp": ratios(0.25, 1, multiple_of=8), "depth": sizes(1, 2)})
    assert Space.from_dict(json.loads(json.dumps(space.to_dict()))).to_dict() == space.to_dict()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"mlp": {"ratio": [1]}}, "must have one of ratios, sizes, widths"),
        ({"mlp": {"ratios": [1], "sizes": [1]}}, "must have one of"),
        ({"mlp": 3}, "must have one of .* got 3"),
        ({"mlp": {"ratios": [1.5]}}, r"in \(0, 1\], got 1.5"),
        ({"mlp": {"sizes": []}}, "positive and at least one"),
        ({"inter_hidden_space": [2, 1], "hidden": [1]}, "unknown key 'hidden'"),
    ],
)
def test_what_is_not_a_space_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Space.from_dict(data)


def test_errors_name_the_nearest_legal_size_and_the_reason():
    heads = graph(("a.heads", "heads", 12))
    with pytest.raises(ValueError, match="nearest legal width is 448"):
        Space({"heads": Choice(unit="widths", values=(450,))}).resolve(heads)
    with pytest.raises(ValueError, match="nearest legal size is 12"):
        Space({"heads": sizes(13)}).resolve(heads)
    frozen = graph(("a.mlp", "mlp", 8, "it is padded"))
    with pytest.raises(ValueError, match=r"matches frozen groups only: a\.mlp: it is padded"):
        Space({"mlp": sizes(4)}).resolve(frozen)
    with pytest.raises(ValueError, match="matches no elastic group; kinds here: heads"):
        Space({"mlp": sizes(4)}).resolve(heads)


def test_numbers_are_no_choice():
    with pytest.raises(TypeError, match=r"of 'mlp' must be ratios.* or sizes.*, got \[0\.5\]"):
        Space({"mlp": [0.5]})


ELASTIC_CLIP = {
    "text": {"atten_out_space": ["None"], "inter_hidden_space": [0, 24, 8]},
    "vision": {"atten_out_space": ["None"], "inter_hidden_space": [0, 32, 16]},
}


@pytest.mark.parametrize("name", ["clip_vit", "open_clip_vit", "hf_clip"])
def test_each_tower_of_a_clip_follows_its_part_of_elastic_json(build, name):
    model, inputs = build(name)
    graph = build_graph(model, inputs)
    widths = {group.name: group.size for group in graph.elastic() if group.kind == "mlp"}
    towers = {"text": {}, "vision": {}}
    for group, size in widths.items():
        towers["vision" if group.startswith("vis") else "text"][group] = size
    data = json.loads(json.dumps(ELASTIC_CLIP))
    for part, groups in towers.items():
        data[part]["inter_hidden_space"][0] = max(groups.values())
    found = Space.from_dict(data).resolve(graph)
    assert found.keys() == widths.keys()
    for part, groups in towers.items():
        for group in groups:
            assert list(found[group]) == sorted(data[part]["inter_hidden_space"])
    only = {"text": {"inter_hidden_space": data["text"]["inter_hidden_space"]}}
    assert Space.from_dict(only).resolve(graph).keys() == towers["text"].keys()
    heads = {"text": {"atten_out_space": [24, 8]}}
    resolved = Space.from_dict(heads).resolve(graph)
    assert resolved
    assert not [group for group in resolved if group.startswith("vis")]
