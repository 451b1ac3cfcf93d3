"""What tasks on one kind of content share, whatever their targets are."""
