"""What `megen bench` measures."""
