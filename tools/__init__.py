"""Commands for the people who write the book. No part of the package."""
