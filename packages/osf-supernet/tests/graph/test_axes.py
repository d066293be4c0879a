from __future__ import annotations

from osf_supernet.graph.axes import (
    Axis,
    atoms,
    concat,
    freeze,
    product,
    split_concat,
    split_product,
    unite,
)


def sizes(axis):
    return [atom.size for atom in atoms(axis)]


def test_a_view_splits_an_atom_and_a_second_view_refines_it():
    axis = Axis(24)
    heads, dim = split_product(axis, [3, 8])
    assert sizes(axis) == [3, 8]
    split_product(axis, [6, 4])
    assert sizes(axis) == [3, 2, 4]
    assert sizes(heads) == [3]
    assert sizes(dim) == [2, 4]


def test_uniting_products_unites_their_factors():
    a, b = Axis(24), Axis(24)
    ha, da = split_product(a, [3, 8])
    hb, db = split_product(b, [3, 8])
    unite(a, b)
    assert ha.root() is hb.root()
    assert da.root() is db.root()


def test_an_atom_takes_the_structure_and_gives_its_reason():
    a, b = Axis(24, frozen="because"), Axis(24)
    split_product(b, [3, 8])
    unite(a, b)
    assert [atom.frozen for atom in atoms(b)] == ["because", "because"]


def test_chunks_and_a_view_of_a_fused_axis_agree():
    fused = Axis(72)
    q, k, v = split_concat(fused, [24, 24, 24])
    for part in (q, k, v):
        split_product(part, [3, 8])
    three, heads, dim = split_product(fused, [3, 3, 8])
    assert sizes(fused) == [3, 3, 8]
    assert three.root().frozen is not None  # q, k and v have different roles
    assert heads.root().frozen is None
    assert list(atoms(q)) == [heads.root(), dim.root()]
    assert list(atoms(v)) == list(atoms(q))


def test_rotating_halves_ties_them():
    dim = Axis(8)
    first, second = split_concat(dim, [4, 4])
    unite(dim, concat([second, first]))
    assert first.root() is second.root()


def test_segments_refine_left_to_right():
    axis = Axis(10)
    split_concat(axis, [4, 6])
    split_concat(axis, [7, 3])
    assert sizes(axis) == [4, 3, 3]


def test_slicing_whole_outer_entries_of_a_product():
    axis = Axis(72)
    split_product(axis, [3, 24])
    first, rest = split_concat(axis, [24, 48])
    assert sizes(first) == [24]
    assert sizes(rest) == [2, 24]
    assert next(atoms(first)) is list(atoms(rest))[-1]


def test_what_has_no_common_refinement_is_frozen_with_a_reason():
    axis = Axis(24)
    split_product(axis, [4, 6])
    parts = split_product(axis, [6, 4])
    assert all(atom.frozen for atom in atoms(axis))
    assert all(part.root().frozen for part in parts)


def test_units_broadcast_and_carry_nothing():
    unit, axis = Axis(1), Axis(5)
    unite(unit, axis)
    assert unit.root() is not axis
    assert product([unit, axis]) is axis
    freeze(unit, "nothing to freeze")
    assert sizes(product([Axis(1), Axis(1)])) == []
