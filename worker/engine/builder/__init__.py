"""The classic image builder: Dockerfiles into images, step by step, with a cache."""
