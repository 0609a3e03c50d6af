"""Pages for people: one HTML file each, opened from disk, that needs no network."""
