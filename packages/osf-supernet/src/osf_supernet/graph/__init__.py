"""Coupled dimensions of a module, derived from its operators.

`rules_structure`, `rules_indexing` and `rules_compute` hold one function per operator: a new one
goes there.
`propagation` applies them; `axes` unites what they find, `expressions` is its frozen form. `graph`
names the groups, `depth` finds blocks to leave out, `flops` counts operations. `explanation` and
`drawing` show the result.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
