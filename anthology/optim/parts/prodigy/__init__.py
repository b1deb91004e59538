"""How far away the minimum is, and the step that uses it."""
