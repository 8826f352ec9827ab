"""What the air does to symbols and bits."""
