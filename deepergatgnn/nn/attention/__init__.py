"""Global attentions, one a file; `nn.config.ATTENTIONS` names them.

An attention is a class with `__init__(config, graph)` and `forward(x [N, F], batch) -> weights [N]`.
"""
