"""Model families, a folder each: the published networks, and `quantile_trajectory`, which is ours."""
