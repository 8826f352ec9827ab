"""What a generation costs in time and energy."""
