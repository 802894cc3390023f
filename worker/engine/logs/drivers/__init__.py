"""Log drivers that send lines elsewhere: options, wire formats (pure), and the connections that carry them."""
