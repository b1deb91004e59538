"""Hooks that watch the steps of any optimizer on a real model."""
