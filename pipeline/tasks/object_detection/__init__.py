"""Object detection: an image, and a box and a class for each object in it."""
