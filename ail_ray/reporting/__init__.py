"""What recorded runs show."""
