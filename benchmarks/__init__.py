"""How long a step takes, here and elsewhere, and how long it must take."""
