"""What the loss cannot see, found in a model and followed through the steps."""
