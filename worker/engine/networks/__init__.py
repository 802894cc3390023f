"""Container networking on one host: bridges, addresses, published ports, name files and the embedded DNS."""
