"""Running tasks: one task is one container, driven step by step towards what the managers desire."""
