"""What an optimizer does, as a map of parameters and state that lends and returns."""
