"""Networks: `config` names their parts, `crystal_model` puts them together; torch, but for `config`."""
