"""``ssod init``: looks at the labelled images and writes a config that fits them."""
