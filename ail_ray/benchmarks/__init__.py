"""How fast the parts are, each against something to compare with; the race, and the check that all agrees."""
