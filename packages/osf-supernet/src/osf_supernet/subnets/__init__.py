"""Subnets: which there are, what each keeps, how it is cut, and whether it is right.

`space` says which sizes there are to choose from, `bounds` which fit a budget. `planning` turns a
config into what is kept, `surgery` cuts the weights, `integer_attributes` decides which integers of
modules follow, `counts` counts parameters and operations. `oracle` computes what a subnet must
return, `references` at which shapes, `comparison` how far apart, `verification` the certificate;
`probing` tries every kind of group when a supernet is built. `importance` and `ranking` say what is
worth keeping.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
