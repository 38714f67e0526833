"""Studies: arms that differ in their recipe, trained at equal cost and compared. Pure, and local to one machine."""
