"""Bodies: layers that update atoms from their neighbours, one a file; `nn.config.BODIES` names them.

A body is a class with `of(config, edge_size)` and `forward(x [N, F], e [E, edge_size], neighbourhood) -> [N, F]`.
"""
