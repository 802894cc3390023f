"""Whole hosts, driven from outside by the docker CLI and by raw HTTP. They need root and script/bootstrap --test."""
