"""Texts: listing, measuring, comparing and encoding them."""
