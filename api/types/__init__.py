"""API and domain objects as msgspec structs: a leaf without behaviour. JSON keys have Docker's casing."""
