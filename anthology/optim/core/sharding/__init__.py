"""How parameters that lie on many processes (DTensors) go through a rule."""
