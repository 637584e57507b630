"""DeeperGATGNN: crystals in, properties and per-atom attention out.

The kernel: no HTTP, no command line, and of the environment only the folder of the store (`checkpoints`).
`structures`, `graphs`, `uncertainty` and `nn.config` need no torch; the rest of `nn`, `checkpoints.weights` and
`predictor` do, and are imported by their full names.

Sources: Omee et al., Patterns 3, 100491 (2022), doi:10.1016/j.patter.2022.100491;
Louis et al., Phys. Chem. Chem. Phys. 22, 18141 (2020), doi:10.1039/D0CP01474E.
"""

from deepergatgnn.version import __version__

__all__ = ["__version__"]
