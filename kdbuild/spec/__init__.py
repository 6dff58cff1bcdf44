"""What was asked for: the models of a spec and of params.yaml, and reading them with file:line."""
