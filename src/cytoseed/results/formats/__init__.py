"""Writers of the formats, one file each; `cytoseed.results.writers` lists them."""
