"""Model cards: what a subnet or supernet is, in words and numbers that were measured."""

from __future__ import annotations

import json

from torch import nn

from osf_supernet.counting import count_parameters
from osf_supernet.supernet import Supernet

_HEAD = """---
library_name: osf-supernet
tags: [osf-supernet, {tag}]
---
"""


def subnet_card(module: nn.Module) -> str:
    """Markdown for an extracted subnet."""
    record = vars(module)["osf_record"]
    certificate = record["certificate"]
    shapes = "; ".join(" ".join("×".join(map(str, s)) for s in c) for c in certificate["shapes"])
    notes = "".join(f"\n- {note}" for note in certificate["notes"])
    return (
        _HEAD.format(tag="subnet")
        + f"""
# A subnet of {record["class"]}

{count_parameters(module):,} parameters, cut from a weight-sharing supernet. Load it with

```python
from osf_supernet.files import pull_from_hub

module = pull_from_hub("owner/name", full)  # full: any module of the whole architecture
```

It was compared with the masked full network: largest difference {certificate["max_error"]:.2g} of
{certificate["tolerance"]:g} allowed ({certificate["precision"]}), at input shapes {shapes}.
The comparison was made when the subnet was cut; training it further does not repeat it.{notes}

```json
{json.dumps(record["config"], indent=2)}
```
"""
    )


def supernet_card(net: Supernet) -> str:
    """Markdown for a supernet."""
    full, least = net.parameters_of(net.largest), net.parameters_of(net.smallest)
    return (
        _HEAD.format(tag="supernet")
        + f"""
# A supernet of {type(net.model).__name__}

Subnets of {least:,} to {full:,} parameters share these weights.

```python
from osf_supernet.files import pull_supernet_from_hub

net = pull_supernet_from_hub("owner/name", model, example_inputs)
small = net.extract(net.sample(seed=0, max_params=0.5))
```

```
{net.explain()}
```
"""
    )
