"""Poolings from atoms to crystal vectors, one a file; `nn.config.POOLINGS` names them.

A pooling is a class with `__init__(config)` and `forward(x [N, F], weights [N] or None, batch) -> [B, P]`, where P is
`NetworkConfig.vector_size`.
"""
