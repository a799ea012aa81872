"""Changes from the last observed intensity, from several scales of the past, with quantiles at every lead."""
