"""What can be done with volumes."""
