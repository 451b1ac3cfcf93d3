"""Images: decoding, measuring and augmenting, shared by every task that has them."""
