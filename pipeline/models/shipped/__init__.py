"""Small pretrained weights that come with Thaw, and the scripts that made them."""
