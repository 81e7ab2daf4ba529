"""Documents as stored, packed symbols."""
